// 64-bit ARM with products of matrices: int8 by smmla, bfloat16 by bfmmla. Each takes two rows of
// eight bytes by two outputs of as many, twice or four times the products of an instruction of the
// dot product.
#include <arm_neon.h>

#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>

#include "kernels.h"

namespace polyrank {
namespace {
constexpr int kLanes = 4;
constexpr int kTileRows = 4;
constexpr int kTileVectors = 4;
#define POLYRANK_OWN_NARROWING
#include "kernels.inc"

inline void store_words(int16_t* p, IntVec v) { vst1_s16(p, vmovn_s32((int32x4_t)v)); }

inline void store_bytes(int8_t* p, IntVec v) {
  const int16x4_t half = vmovn_s32((int32x4_t)v);
  const int8x8_t bytes = vmovn_s16(vcombine_s16(half, half));
  std::memcpy(p, &bytes, 4);
}

inline void store_bf16(uint16_t* p, Vec v) {
  const IntVec bits = float_to_bits(v);
  IntVec rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  rounded = v == v ? rounded : splat_int(0x7fc0);
  vst1_u16(p, vmovn_u32((uint32x4_t)rounded));
}

// Eight bytes of each of two rows; of the last row alone where their number is odd.
inline int8x16_t two_rows(const char* rows, size_t row_bytes, size_t at, bool has_second) {
  const int8x8_t first = vld1_s8(reinterpret_cast<const int8_t*>(rows + at));
  const char* second = has_second ? rows + row_bytes + at : rows + at;
  return vcombine_s8(first, vld1_s8(reinterpret_cast<const int8_t*>(second)));
}

// Sums of kRows rows with one panel of 16 outputs, whose inputs lie in groups of four bytes: steps of
// eight bytes of each output are two groups, zipped. `Sums` is int32x4_t or float32x4_t.
template <int kRows, typename Sums, typename Sum>
__attribute__((noinline)) void tile_of_pairs(const char* rows, size_t row_bytes, const char* panel,
                                             Sum* out, size_t ld_out) {
  constexpr int kPairs = (kRows + 1) / 2;
  Sums c[kPairs][8];  // two rows by two outputs each
#pragma GCC unroll 8
  for (int i = 0; i < kPairs; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) c[i][j] = Sums{};
  }
  for (size_t d = 0; d < row_bytes; d += 8) {
    int8x16_t a[kPairs];
#pragma GCC unroll 8
    for (int i = 0; i < kPairs; ++i) {
      a[i] = two_rows(rows + 2 * i * row_bytes, row_bytes, d, 2 * i + 1 < kRows);
    }
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      const int32_t* at = reinterpret_cast<const int32_t*>(panel + d * kPanelOutputs) + v * 4;
      const int32x4_t low = vld1q_s32(at), high = vld1q_s32(at + kPanelOutputs);
      const int32x4_t b[2] = {vzip1q_s32(low, high), vzip2q_s32(low, high)};
#pragma GCC unroll 8
      for (int i = 0; i < kPairs; ++i) {
#pragma GCC unroll 2
        for (int h = 0; h < 2; ++h) {
          Sums& sum = c[i][2 * v + h];
          if constexpr (std::is_same_v<Sum, float>) {
            sum = vbfmmlaq_f32(sum, vreinterpretq_bf16_s8(a[i]), vreinterpretq_bf16_s32(b[h]));
          } else {
            sum = vmmlaq_s32(sum, a[i], vreinterpretq_s8_s32(b[h]));
          }
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kPairs; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      std::memcpy(out + 2 * i * ld_out + 2 * j, &c[i][j], 8);
      if (2 * i + 1 < kRows) {
        std::memcpy(out + (2 * i + 1) * ld_out + 2 * j, reinterpret_cast<const char*>(&c[i][j]) + 8, 8);
      }
    }
  }
}

constexpr int kRowsBf16 = 6;
constexpr int kMostVectorsBf16 = 4;

template <int kVectors, int kRows = kRowsBf16>
inline void product_bf16(int count, const uint16_t* rows, size_t k, const char* panels,
                         float* sums) {
  static_assert(kVectors == 4);
  if constexpr (kRows > 0) {
    if (count == kRows) {
      return tile_of_pairs<kRows, float32x4_t>(reinterpret_cast<const char*>(rows), k * 2, panels,
                                               sums, kPanelOutputs);
    }
    product_bf16<kVectors, kRows - 1>(count, rows, k, panels, sums);
  }
}

#define POLYRANK_OWN_BF16
#include "kernels_linear_bf16.inc"

using Step = int8_t;
constexpr int kMostPanels = 1;
constexpr int kRowsS8 = 6;
constexpr bool kIsUnsigned = false;

template <int kRows, int kPanels>
inline void tile_s8(const int8_t* q, size_t ld, const int8_t* panel, size_t depth, int32_t* sums) {
  static_assert(kPanels == 1);
  (void)depth;  // rows lie as far apart as they are deep
  tile_of_pairs<kRows, int32x4_t>(reinterpret_cast<const char*>(q), ld,
                                  reinterpret_cast<const char*>(panel), sums, kPanelOutputs);
}

#include "kernels_s8.inc"

constexpr Kernels kTable = table("neoni8mm", 96);
}  // namespace

const Kernels* const kKernelsNeonI8mm = &kTable;

}  // namespace polyrank
