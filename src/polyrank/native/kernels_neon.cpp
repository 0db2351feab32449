// 64-bit ARM with the dot product instructions.
#include <arm_neon.h>

#include <cmath>
#include <cstring>

#include "kernels.h"

namespace polyrank {
namespace {
constexpr int kLanes = 4;
constexpr int kTileRows = 4;
constexpr int kTileVectors = 4;
#include "kernels.inc"

constexpr int kPanelS8 = 16;
constexpr int kRowsS8 = 4;

size_t packed_s8_bytes(int n, int k) {
  return static_cast<size_t>((n + kPanelS8 - 1) / kPanelS8) * kPanelS8 * padded_k(k);
}

// [n / 16][k / 4][16][4]
void pack_s8(const int8_t* weights, int n, int k, int8_t* packed, int32_t* corrections) {
  const size_t depth = padded_k(k);
  std::memset(packed, 0, packed_s8_bytes(n, k));
  for (int j = 0; j < n; ++j) {
    int8_t* panel = packed + static_cast<size_t>(j / kPanelS8) * kPanelS8 * depth;
    const int8_t* in = weights + static_cast<size_t>(j) * k;
    for (int i = 0; i < k; ++i) {
      panel[static_cast<size_t>(i / 4) * kPanelS8 * 4 + (j % kPanelS8) * 4 + i % 4] = in[i];
    }
    corrections[j] = 0;
  }
}

template <int kRows>
__attribute__((noinline)) void tile_s8(const int8_t* q, size_t ld, const int8_t* panel,
                                       size_t depth, int32_t* sums) {
  int32x4_t c[kRows][4];
  for (int i = 0; i < kRows; ++i) {
    for (int v = 0; v < 4; ++v) c[i][v] = vdupq_n_s32(0);
  }
  for (size_t d = 0; d < depth; d += 4) {
    int8x16_t b[4];
    for (int v = 0; v < 4; ++v) b[v] = vld1q_s8(panel + d * kPanelS8 + v * 16);
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
      int32_t four;
      std::memcpy(&four, q + i * ld + d, 4);
      int8x16_t a = vreinterpretq_s8_s32(vdupq_n_s32(four));
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) c[i][v] = vdotq_s32(c[i][v], a, b[v]);
    }
  }
  for (int i = 0; i < kRows; ++i) {
    for (int v = 0; v < 4; ++v) vst1q_s32(sums + i * kPanelS8 + v * 4, c[i][v]);
  }
}

template <int kRows = kRowsS8>
inline void any_tile_s8(int rows, const int8_t* q, size_t ld, const int8_t* panel, size_t depth,
                        int32_t* sums) {
  if constexpr (kRows > 0) {
    if (rows == kRows) return tile_s8<kRows>(q, ld, panel, depth, sums);
    any_tile_s8<kRows - 1>(rows, q, ld, panel, depth, sums);
  }
}

void linear_s8(const int8_t* q, const float* scales, int rows, const LinearS8& linear,
               const Output& out) {
  const size_t depth = padded_k(linear.k);
  alignas(64) int32_t sums[kRowsS8 * kPanelS8];
  for (int column = 0; column < linear.n; column += kPanelS8) {
    const int8_t* panel = linear.weights + static_cast<size_t>(column) * depth;
    for (int row = 0; row < rows; row += kRowsS8) {
      int count = rows - row < kRowsS8 ? rows - row : kRowsS8;
      any_tile_s8(count, q + row * depth, depth, panel, depth, sums);
      write_tile<MakeS8, true>(count, kPanelS8, row, column, out,
                               MakeS8{sums, kPanelS8, scales + row, linear.scales + column,
                                      linear.bias + column, nullptr});
    }
  }
}

const Kernels kTable = {
    .name = "neon",
    .exact = nullptr,
    .is_qkv_bf16 = false,
    .row_block = 32,
    .begin = nothing,
    .end = nothing,
    .packed_s8_bytes = packed_s8_bytes,
    .pack_s8 = pack_s8,
    .packed_f32_bytes = packed_f32_bytes,
    .pack_f32 = pack_f32,
    .quantize = quantize<false>,
    .linear_s8 = linear_s8,
    .linear_f32 = linear_f32,
    .attention_scratch = attention_scratch_f32,
    .attention = attention_f32,
    .layer_norm = layer_norm,
};
}  // namespace

const Kernels* const kKernelsNeon = &kTable;

}  // namespace polyrank
