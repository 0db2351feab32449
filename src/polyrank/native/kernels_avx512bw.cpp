// AVX-512 without VNNI. int8 products are of 16 bits, since vpmaddubsw would saturate; with weights
// in 4-bit blocks it cannot, and sums of a block stay within 16 bits.
#include <immintrin.h>

#include <cmath>
#include <cstring>
#include <utility>

#include "kernels.h"

namespace polyrank {
namespace {
#include "kernels_512.inc"
#include "kernels_linear_bf16.inc"

constexpr int kPanelsS4 = 2;
constexpr int kRowsS4 = 4;

template <int kRows>
__attribute__((noinline)) void tile_s4(const int8_t* q, const RowBlock* blocks,
                                       const LinearS4& linear, int column, float* sums) {
  const size_t depth = padded_k(linear.k), num_blocks = linear.k / kBlockInputs;
  const uint8_t* panels = linear.weights + column * depth;
  const float* scales = linear.scales + column * num_blocks;
  const __m512i ones = _mm512_set1_epi16(1);
  __m512 total[kRows][kPanelsS4];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int p = 0; p < kPanelsS4; ++p) total[i][p] = _mm512_setzero_ps();
  }
  for (size_t b = 0; b < num_blocks; ++b) {
    __m512i c[kRows][kPanelsS4];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      int32_t pair;
      std::memcpy(&pair, blocks[i * num_blocks + b].corrections, 4);
#pragma GCC unroll 4
      for (int p = 0; p < kPanelsS4; ++p) c[i][p] = _mm512_set1_epi32(pair);
    }
    const size_t first = b * kBlockInputs;
#pragma GCC unroll 1  // all eight steps at once spill the sums: half as quick
    for (size_t d = first; d < first + kBlockInputs; d += 4) {
      __m512i w[kPanelsS4];
#pragma GCC unroll 4
      for (int p = 0; p < kPanelsS4; ++p) {
        w[p] = _mm512_load_si512(panels + (p * depth + d) * kPanelOutputs);
      }
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        int32_t four;
        std::memcpy(&four, q + i * depth + d, 4);
        __m512i a = _mm512_set1_epi32(four);
#pragma GCC unroll 4
        for (int p = 0; p < kPanelsS4; ++p) {
          c[i][p] = _mm512_add_epi16(c[i][p], _mm512_maddubs_epi16(w[p], a));
        }
      }
    }
    __m512 scale[kPanelsS4];
#pragma GCC unroll 4
    for (int p = 0; p < kPanelsS4; ++p) {
      scale[p] = _mm512_load_ps(scales + (p * num_blocks + b) * kPanelOutputs);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      __m512 row_scale = _mm512_set1_ps(blocks[i * num_blocks + b].scale);
#pragma GCC unroll 4
      for (int p = 0; p < kPanelsS4; ++p) {
        __m512 sum = _mm512_cvtepi32_ps(_mm512_madd_epi16(c[i][p], ones));
        total[i][p] = _mm512_fmadd_ps(sum, _mm512_mul_ps(scale[p], row_scale), total[i][p]);
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int p = 0; p < kPanelsS4; ++p) {
      _mm512_store_ps(sums + (i * kPanelsS4 + p) * kPanelOutputs, total[i][p]);
    }
  }
}

#include "kernels_s4.inc"

using Step = int16_t;
constexpr int kMostPanels = 1;
constexpr int kRowsS8 = 8;
constexpr bool kIsUnsigned = false;

template <int kRows, int kPanels>
__attribute__((noinline)) void tile_s8(const int16_t* q, size_t ld, const int8_t* panel,
                                       size_t depth, int32_t* sums) {
  __m512i low[kRows], high[kRows];  // two partial sums for each of eight outputs
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) low[i] = high[i] = _mm512_setzero_si512();
  for (size_t d = 0; d < depth; d += 4) {
    const __m256i* b = reinterpret_cast<const __m256i*>(panel + d * kPanelOutputs);
    __m512i b_low = _mm512_cvtepi8_epi16(_mm256_load_si256(b));
    __m512i b_high = _mm512_cvtepi8_epi16(_mm256_load_si256(b + 1));
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      int64_t four;
      std::memcpy(&four, q + i * ld + d, 8);
      __m512i a = _mm512_set1_epi64(four);
      low[i] = _mm512_add_epi32(low[i], _mm512_madd_epi16(a, b_low));
      high[i] = _mm512_add_epi32(high[i], _mm512_madd_epi16(a, b_high));
    }
  }
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    __m512i sum = _mm512_add_epi32(_mm512_permutex2var_epi32(low[i], even, high[i]),
                                   _mm512_permutex2var_epi32(low[i], odd, high[i]));
    _mm512_store_si512(sums + i * kPanelOutputs, sum);
  }
}

#include "kernels_s8.inc"

constexpr Kernels kTable = table("avx512bw", 96);
}  // namespace

const Kernels* const kKernelsAvx512Bw = &kTable;

}  // namespace polyrank
