// AVX2 with AVX-VNNI, as on recent processors for laptops.
#include <immintrin.h>

#include <cmath>
#include <cstring>
#include <utility>

#include "kernels.h"

namespace polyrank {
namespace {
#include "kernels_256.inc"
#include "kernels_linear_bf16.inc"

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
