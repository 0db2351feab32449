// 64-bit ARM with the dot product instructions.
#include <arm_neon.h>

#include <cmath>
#include <cstring>
#include <utility>

#include "kernels.h"

namespace polyrank {
namespace {
constexpr int kLanes = 4;
constexpr int kTileRows = 4;
constexpr int kTileVectors = 4;
#include "kernels.inc"
#include "kernels_linear_bf16.inc"

using Step = int8_t;
constexpr int kMostPanels = 1;
constexpr int kRowsS8 = 4;
constexpr bool kIsUnsigned = false;

template <int kRows, int kPanels>
__attribute__((noinline)) void tile_s8(const int8_t* q, size_t ld, const int8_t* panel,
                                       size_t depth, int32_t* sums) {
  int32x4_t c[kRows][4];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
    for (int v = 0; v < 4; ++v) c[i][v] = vdupq_n_s32(0);
  }
  for (size_t d = 0; d < depth; d += 4) {
    int8x16_t b[4];
#pragma GCC unroll 8
    for (int v = 0; v < 4; ++v) b[v] = vld1q_s8(panel + d * kPanelOutputs + v * 16);
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
      int32_t four;
      std::memcpy(&four, q + i * ld + d, 4);
      int8x16_t a = vreinterpretq_s8_s32(vdupq_n_s32(four));
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) c[i][v] = vdotq_s32(c[i][v], a, b[v]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
    for (int v = 0; v < 4; ++v) vst1q_s32(sums + i * kPanelOutputs + v * 4, c[i][v]);
  }
}

#include "kernels_s8.inc"

constexpr Kernels kTable = table("neon", 64);
}  // namespace

const Kernels* const kKernelsNeon = &kTable;

}  // namespace polyrank
