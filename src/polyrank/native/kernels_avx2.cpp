// AVX2 without VNNI. int8 products are of 16 bits, since vpmaddubsw would saturate: activations are
// stored as such, weights widened as they are read. With weights in 4-bit blocks it cannot
// saturate, and sums of a block stay within 16 bits.
#include <immintrin.h>

#include <cmath>
#include <cstring>
#include <utility>

#include "kernels.h"

namespace polyrank {
namespace {
#include "kernels_256.inc"
#include "kernels_linear_bf16.inc"

constexpr int kPanelsS4 = 1;
constexpr int kRowsS4 = 6;

template <int kRows>
__attribute__((noinline)) void tile_s4(const int8_t* q, const RowBlock* blocks,
                                       const LinearS4& linear, int column, float* sums) {
  const size_t depth = padded_k(linear.k), num_blocks = linear.k / kBlockInputs;
  const uint8_t* panel = linear.weights + column * depth;
  const float* scales = linear.scales + column * num_blocks;
  const __m256i ones = _mm256_set1_epi16(1);
  // with 12 sums in the registers there is no room for the totals
  for (int i = 0; i < kRows * kPanelOutputs; i += 8) _mm256_store_ps(sums + i, _mm256_setzero_ps());
  for (size_t b = 0; b < num_blocks; ++b, scales += kPanelOutputs) {
    __m256i c[kRows][2];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      int32_t pair;
      std::memcpy(&pair, blocks[i * num_blocks + b].corrections, 4);
      c[i][0] = c[i][1] = _mm256_set1_epi32(pair);
    }
    const size_t first = b * kBlockInputs;
#pragma GCC unroll 1  // all eight steps at once spill the sums: half as quick
    for (size_t d = first; d < first + kBlockInputs; d += 4) {
      const __m256i* w = reinterpret_cast<const __m256i*>(panel + d * kPanelOutputs);
      __m256i w0 = _mm256_load_si256(w), w1 = _mm256_load_si256(w + 1);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        int32_t four;
        std::memcpy(&four, q + i * depth + d, 4);
        __m256i a = _mm256_set1_epi32(four);
        c[i][0] = _mm256_add_epi16(c[i][0], _mm256_maddubs_epi16(w0, a));
        c[i][1] = _mm256_add_epi16(c[i][1], _mm256_maddubs_epi16(w1, a));
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      __m256 row_scale = _mm256_set1_ps(blocks[i * num_blocks + b].scale);
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) {
        float* total = sums + i * kPanelOutputs + v * 8;
        __m256 sum = _mm256_cvtepi32_ps(_mm256_madd_epi16(c[i][v], ones));
        __m256 scale = _mm256_mul_ps(_mm256_load_ps(scales + v * 8), row_scale);
        _mm256_store_ps(total, _mm256_fmadd_ps(sum, scale, _mm256_load_ps(total)));
      }
    }
  }
}

#include "kernels_s4.inc"

using Step = int16_t;
constexpr int kMostPanels = 1;
constexpr int kRowsS8 = 4;  // with more GCC runs out of registers
constexpr bool kIsUnsigned = false;

// Half a panel, 8 outputs.
template <int kRows>
__attribute__((noinline)) void half_tile_s8(const int16_t* q, size_t ld, const int8_t* panel,
                                            size_t depth, int32_t* sums) {
  __m256i low[kRows], high[kRows];  // two partial sums for each of four outputs
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) low[i] = high[i] = _mm256_setzero_si256();
  for (size_t d = 0; d < depth; d += 4) {
    const __m128i* b = reinterpret_cast<const __m128i*>(panel + d * kPanelOutputs);
    __m256i b_low = _mm256_cvtepi8_epi16(_mm_load_si128(b));
    __m256i b_high = _mm256_cvtepi8_epi16(_mm_load_si128(b + 1));
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      int64_t four;
      std::memcpy(&four, q + i * ld + d, 8);
      __m256i a = _mm256_set1_epi64x(four);
      low[i] = _mm256_add_epi32(low[i], _mm256_madd_epi16(a, b_low));
      high[i] = _mm256_add_epi32(high[i], _mm256_madd_epi16(a, b_high));
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    // hadd works within 128-bit lanes: outputs 0 1 4 5 | 2 3 6 7
    __m256i sum = _mm256_hadd_epi32(low[i], high[i]);
    _mm256_store_si256(reinterpret_cast<__m256i*>(sums + i * kPanelOutputs),
                       _mm256_permute4x64_epi64(sum, 0xd8));
  }
}

template <int kRows, int kPanels>
inline void tile_s8(const int16_t* q, size_t ld, const int8_t* panel, size_t depth,
                    int32_t* sums) {
  half_tile_s8<kRows>(q, ld, panel, depth, sums);
  half_tile_s8<kRows>(q, ld, panel + 32, depth, sums + 8);
}

#include "kernels_s8.inc"

constexpr Kernels kTable = table("avx2", 96);
}  // namespace

const Kernels* const kKernelsAvx2 = &kTable;

}  // namespace polyrank
