// AVX2 without VNNI. The int8 product widens to 16 bits first: vpmaddubsw would saturate.
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

void store_bf16(uint16_t* p, Vec v) {
  IntVec bits = float_to_bits(v);
  IntVec rounded = ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) & 0xffff;
  rounded = v == v ? rounded : splat_int(0x7fc0);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), halves(rounded, false));
}

constexpr int kPanelS8 = 8;
constexpr int kRowsS8 = 4;
constexpr bool kIsUnsigned = false;

template <int kRows>
__attribute__((noinline)) void tile_s8(const int8_t* q, size_t ld, const int8_t* panel,
                                       size_t depth, int32_t* sums) {
  __m256i low[kRows], high[kRows];  // two partial sums for each of four outputs
  for (int i = 0; i < kRows; ++i) low[i] = high[i] = _mm256_setzero_si256();
  for (size_t d = 0; d < depth; d += 4) {
    const __m128i* b = reinterpret_cast<const __m128i*>(panel + d * kPanelS8);
    __m256i b_low = _mm256_cvtepi8_epi16(_mm_loadu_si128(b));
    __m256i b_high = _mm256_cvtepi8_epi16(_mm_loadu_si128(b + 1));
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
      int32_t four;
      std::memcpy(&four, q + i * ld + d, 4);
      __m256i a = _mm256_cvtepi8_epi16(_mm_set1_epi32(four));
      low[i] = _mm256_add_epi32(low[i], _mm256_madd_epi16(a, b_low));
      high[i] = _mm256_add_epi32(high[i], _mm256_madd_epi16(a, b_high));
    }
  }
  for (int i = 0; i < kRows; ++i) {
    // hadd works within 128-bit lanes: outputs 0 1 4 5 | 2 3 6 7
    __m256i sum = _mm256_hadd_epi32(low[i], high[i]);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + i * kPanelS8),
                        _mm256_permute4x64_epi64(sum, 0xd8));
  }
}

#include "kernels_s8.inc"

constexpr Kernels kTable = table("avx2", 96);
}  // namespace

const Kernels* const kKernelsAvx2 = &kTable;

}  // namespace polyrank
