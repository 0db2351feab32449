// AVX-512 with VNNI.
#include <immintrin.h>

#include <cmath>
#include <cstring>
#include <utility>

#include "kernels.h"

namespace polyrank {
namespace {
constexpr int kLanes = 16;
constexpr int kTileRows = 6;
constexpr int kTileVectors = 4;
#define POLYRANK_OWN_NARROWING
#define POLYRANK_OWN_RECIPROCAL
#include "kernels.inc"

// An estimate of 14 bits and one step of Newton's: a division takes longer than the rest of GELU.
inline Vec reciprocal(Vec x) {
  Vec guess = (Vec)_mm512_rcp14_ps((__m512)x);
  return guess * (2.0f - x * guess);
}

inline void store_bytes(int8_t* p, IntVec v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8((__m512i)v));
}

inline void store_words(int16_t* p, IntVec v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16((__m512i)v));
}

void store_bf16(uint16_t* p, Vec v) {
  IntVec bits = float_to_bits(v);
  IntVec rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  rounded = v == v ? rounded : splat_int(0x7fc0);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16((__m512i)rounded));
}

using Step = int8_t;
constexpr int kMostPanels = 4;
constexpr int kRowsS8 = 6;
constexpr bool kIsUnsigned = true;

template <int kRows, int kPanels>
__attribute__((noinline)) void tile_s8(const int8_t* q, size_t ld, const int8_t* panels,
                                       size_t depth, int32_t* sums) {
  __m512i c[kRows][kPanels];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) c[i][p] = _mm512_setzero_si512();
  }
  for (size_t d = 0; d < depth; d += 4) {
    __m512i b[kPanels];
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
      b[p] = _mm512_load_si512(panels + (p * depth + d) * kPanelOutputs);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      int32_t four;
      std::memcpy(&four, q + i * ld + d, 4);
      __m512i a = _mm512_set1_epi32(four);
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) c[i][p] = _mm512_dpbusd_epi32(c[i][p], a, b[p]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) {
      _mm512_store_si512(sums + (i * kPanels + p) * kPanelOutputs, c[i][p]);
    }
  }
}

#include "kernels_s8.inc"

constexpr Kernels kTable = table("avx512", 96);
}  // namespace

const Kernels* const kKernelsAvx512 = &kTable;

}  // namespace polyrank
