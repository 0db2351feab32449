// AVX2 with AVX-VNNI, as on recent processors for laptops.
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

using Step = int8_t;
constexpr int kMostPanels = 1;
constexpr int kRowsS8 = 6;
constexpr bool kIsUnsigned = true;

template <int kRows, int kPanels>
__attribute__((noinline)) void tile_s8(const int8_t* q, size_t ld, const int8_t* panel,
                                       size_t depth, int32_t* sums) {
  __m256i c[kRows][2];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) c[i][0] = c[i][1] = _mm256_setzero_si256();
  for (size_t d = 0; d < depth; d += 4) {
    const __m256i* b = reinterpret_cast<const __m256i*>(panel + d * kPanelOutputs);
    __m256i b0 = _mm256_load_si256(b), b1 = _mm256_load_si256(b + 1);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      int32_t four;
      std::memcpy(&four, q + i * ld + d, 4);
      __m256i a = _mm256_set1_epi32(four);
      c[i][0] = _mm256_dpbusd_avx_epi32(c[i][0], a, b0);
      c[i][1] = _mm256_dpbusd_avx_epi32(c[i][1], a, b1);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(sums + i * kPanelOutputs), c[i][0]);
    _mm256_store_si256(reinterpret_cast<__m256i*>(sums + i * kPanelOutputs + 8), c[i][1]);
  }
}

#include "kernels_s8.inc"

constexpr Kernels kTable = table("avxvnni", 96);
}  // namespace

const Kernels* const kKernelsAvxVnni = &kTable;

}  // namespace polyrank
