// AVX2 without VNNI. Products are of 16 bits, since vpmaddubsw would saturate: activations are
// stored as such, weights widened as they are read.
#include <immintrin.h>

#include <cmath>
#include <cstring>
#include <utility>

#include "kernels.h"

namespace polyrank {
namespace {
constexpr int kLanes = 8;
constexpr int kTileRows = 6;
constexpr int kTileVectors = 2;
#define POLYRANK_OWN_NARROWING
#include "kernels.inc"

inline __m128i halves(IntVec v, bool is_signed) {
  __m256i x = (__m256i)v;
  __m128i low = _mm256_castsi256_si128(x), high = _mm256_extracti128_si256(x, 1);
  return is_signed ? _mm_packs_epi32(low, high) : _mm_packus_epi32(low, high);
}

// The low byte of each of values from -128 to 255.
inline void store_bytes(int8_t* p, IntVec v) {
  __m128i x = halves(v & 255, true);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(x, x));
}

inline void store_words(int16_t* p, IntVec v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), halves(v, true));
}

void store_bf16(uint16_t* p, Vec v) {
  IntVec bits = float_to_bits(v);
  IntVec rounded = ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) & 0xffff;
  rounded = v == v ? rounded : splat_int(0x7fc0);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), halves(rounded, false));
}

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
