// For any processor, by what every one of its kind has: SSE2 on x86-64, NEON without dot product on
// 64-bit ARM, SIMD of 128 bits in WebAssembly, plain C++ elsewhere. Always built and tested.
#include <cmath>
#include <cstring>
#include <utility>

#if defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__ARM_NEON) && defined(__aarch64__)
#include <arm_neon.h>
#elif defined(__wasm_simd128__)
#include <wasm_simd128.h>
#endif

#include "kernels.h"

namespace polyrank {
namespace {
constexpr int kLanes = 4;
constexpr int kTileRows = 4;
constexpr int kTileVectors = 2;
#include "kernels.inc"
#include "kernels_linear_bf16.inc"

constexpr int kMostPanels = 1;
constexpr bool kIsUnsigned = false;

#if defined(__SSE2__)
using Step = int16_t;  // pmaddwd multiplies 16 bits
constexpr int kRowsS8 = 3;

// Half a panel, 8 outputs.
template <int kRows>
__attribute__((noinline)) void half_tile_s8(const int16_t* q, size_t ld, const int8_t* panel,
                                            size_t depth, int32_t* sums) {
  __m128i c[kRows][4];  // two partial sums for each of two outputs
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) c[i][v] = _mm_setzero_si128();
  }
  for (size_t d = 0; d < depth; d += 4) {
    __m128i a[kRows];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      __m128i four = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(q + i * ld + d));
      a[i] = _mm_unpacklo_epi64(four, four);
    }
#pragma GCC unroll 2
    for (int v = 0; v < 4; v += 2) {
      __m128i b = _mm_load_si128(reinterpret_cast<const __m128i*>(panel + d * kPanelOutputs + v * 8));
      __m128i low = _mm_srai_epi16(_mm_unpacklo_epi8(b, b), 8);
      __m128i high = _mm_srai_epi16(_mm_unpackhi_epi8(b, b), 8);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        c[i][v] = _mm_add_epi32(c[i][v], _mm_madd_epi16(a[i], low));
        c[i][v + 1] = _mm_add_epi32(c[i][v + 1], _mm_madd_epi16(a[i], high));
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < 4; v += 2) {
      __m128 x = _mm_castsi128_ps(c[i][v]), y = _mm_castsi128_ps(c[i][v + 1]);
      __m128i even = _mm_castps_si128(_mm_shuffle_ps(x, y, 0x88));
      __m128i odd = _mm_castps_si128(_mm_shuffle_ps(x, y, 0xdd));
      _mm_store_si128(reinterpret_cast<__m128i*>(sums + i * kPanelOutputs + v * 2),
                      _mm_add_epi32(even, odd));
    }
  }
}

template <int kRows, int kPanels>
inline void tile_s8(const int16_t* q, size_t ld, const int8_t* panel, size_t depth,
                    int32_t* sums) {
  half_tile_s8<kRows>(q, ld, panel, depth, sums);
  half_tile_s8<kRows>(q, ld, panel + 32, depth, sums + 8);
}

#elif defined(__ARM_NEON) && defined(__aarch64__)
using Step = int8_t;
constexpr int kRowsS8 = 2;

// Two products of 127 by 127 fit 16 bits: 32,258.
template <int kRows, int kPanels>
__attribute__((noinline)) void tile_s8(const int8_t* q, size_t ld, const int8_t* panel,
                                       size_t depth, int32_t* sums) {
  int32x4_t c[kRows][8];  // two partial sums for each of two outputs
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
    for (int v = 0; v < 8; ++v) c[i][v] = vdupq_n_s32(0);
  }
  for (size_t d = 0; d < depth; d += 8) {  // padded_k is a multiple of 64
    int8x8_t a[kRows][2];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      int32_t fours[2];
      std::memcpy(fours, q + i * ld + d, 8);
      a[i][0] = vreinterpret_s8_s32(vdup_n_s32(fours[0]));
      a[i][1] = vreinterpret_s8_s32(vdup_n_s32(fours[1]));
    }
#pragma GCC unroll 8
    for (int v = 0; v < 8; ++v) {
      const int8_t* at = panel + d * kPanelOutputs + v * 8;
      int8x8_t first = vld1_s8(at), second = vld1_s8(at + 4 * kPanelOutputs);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        int16x8_t pair = vmlal_s8(vmull_s8(a[i][0], first), a[i][1], second);
        c[i][v] = vpadalq_s16(c[i][v], pair);
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
    for (int v = 0; v < 8; v += 2) {
      vst1q_s32(sums + i * kPanelOutputs + v * 2, vpaddq_s32(c[i][v], c[i][v + 1]));
    }
  }
}

#elif defined(__wasm_simd128__)
using Step = int16_t;  // i32x4.dot_i16x8_s multiplies 16 bits
constexpr int kRowsS8 = 3;

// Half a panel, 8 outputs.
template <int kRows>
__attribute__((noinline)) void half_tile_s8(const int16_t* q, size_t ld, const int8_t* panel,
                                            size_t depth, int32_t* sums) {
  v128_t c[kRows][4];  // two partial sums for each of two outputs
  for (int i = 0; i < kRows; ++i) {
    for (int v = 0; v < 4; ++v) c[i][v] = wasm_i32x4_splat(0);
  }
  for (size_t d = 0; d < depth; d += 4) {
    v128_t a[kRows];
    for (int i = 0; i < kRows; ++i) a[i] = wasm_v128_load64_splat(q + i * ld + d);
    for (int v = 0; v < 4; ++v) {
      const v128_t b = wasm_i16x8_load8x8(panel + d * kPanelOutputs + v * 8);
      for (int i = 0; i < kRows; ++i) {
        c[i][v] = wasm_i32x4_add(c[i][v], wasm_i32x4_dot_i16x8(a[i], b));
      }
    }
  }
  for (int i = 0; i < kRows; ++i) {
    for (int v = 0; v < 4; v += 2) {
      const v128_t even = wasm_i32x4_shuffle(c[i][v], c[i][v + 1], 0, 2, 4, 6);
      const v128_t odd = wasm_i32x4_shuffle(c[i][v], c[i][v + 1], 1, 3, 5, 7);
      wasm_v128_store(sums + i * kPanelOutputs + v * 2, wasm_i32x4_add(even, odd));
    }
  }
}

template <int kRows, int kPanels>
inline void tile_s8(const int16_t* q, size_t ld, const int8_t* panel, size_t depth,
                    int32_t* sums) {
  half_tile_s8<kRows>(q, ld, panel, depth, sums);
  half_tile_s8<kRows>(q, ld, panel + 32, depth, sums + 8);
}

#else
using Step = int8_t;
constexpr int kRowsS8 = 2;

template <int kRows, int kPanels>
void tile_s8(const int8_t* q, size_t ld, const int8_t* panel, size_t depth, int32_t* sums) {
  int32_t c[kRows][kPanelOutputs] = {};
  for (size_t d = 0; d < depth; d += 4) {
    for (int i = 0; i < kRows; ++i) {
      for (int j = 0; j < kPanelOutputs; ++j) {
        for (int four = 0; four < 4; ++four) {
          c[i][j] += static_cast<int32_t>(q[i * ld + d + four]) *
                     panel[d * kPanelOutputs + static_cast<size_t>(j) * 4 + four];
        }
      }
    }
  }
  std::memcpy(sums, c, sizeof c);
}
#endif

#include "kernels_s8.inc"

constexpr Kernels kTable = table("portable", 64);
}  // namespace

const Kernels* const kKernelsPortable = &kTable;

}  // namespace polyrank
