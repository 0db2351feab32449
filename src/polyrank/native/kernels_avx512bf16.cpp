// AVX-512 with VNNI, and bfloat16 products for attention and bfloat16 weights. Only for processors that do these at twice
// the rate of float32 (cpu.h): on others vdpbf16ps is no quicker than two fused products.
#include <immintrin.h>

#include <cmath>
#include <cstring>
#include <utility>

#include "kernels.h"

namespace polyrank {
namespace {
#include "kernels_512.inc"

// Sums over pairs of bfloat16 values, (kRows, 16 * kVectors): pair by pair of each row with a vector
// of each of kVectors columns, which lie `ld_column` bytes apart and hold tiles of `num_pairs`.
template <int kRows, int kVectors>
__attribute__((noinline)) void tile_bf16(const uint16_t* rows, size_t ld, const char* columns,
                                         size_t ld_column, size_t num_pairs, float* out,
                                         size_t ld_out) {
  __m512 sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sums[i][v] = _mm512_setzero_ps();
  }
#pragma GCC unroll 1
  for (size_t pair = 0; pair < num_pairs; ++pair) {
    __m512i b[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      b[v] = _mm512_load_si512(columns + v * ld_column + pair * 64);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      int32_t two;
      std::memcpy(&two, rows + i * ld + 2 * pair, 4);
      __m512i a = _mm512_set1_epi32(two);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        sums[i][v] = _mm512_dpbf16_ps(sums[i][v], (__m512bh)a, (__m512bh)b[v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) _mm512_storeu_ps(out + i * ld_out + v * 16, sums[i][v]);
  }
}

template <int kVectors, int kRows>
inline void any_tile_bf16(int count, const uint16_t* rows, size_t ld, const char* columns,
                          size_t ld_column, size_t num_pairs, float* out, size_t ld_out) {
  if constexpr (kRows > 0) {
    if (count == kRows) {
      return tile_bf16<kRows, kVectors>(rows, ld, columns, ld_column, num_pairs, out, ld_out);
    }
    any_tile_bf16<kVectors, kRows - 1>(count, rows, ld, columns, ld_column, num_pairs, out, ld_out);
  }
}

constexpr int kRowsBf16 = 6;
constexpr int kMostVectorsBf16 = 4;

template <int kVectors>
inline void product_bf16(int count, const uint16_t* rows, size_t k, const char* panels,
                         float* sums) {
  any_tile_bf16<kVectors, kRowsBf16>(count, rows, k, panels, k * 32, k / 2, sums, kVectors * 16);
}

#define POLYRANK_OWN_BF16
#include "kernels_linear_bf16.inc"
#include "kernels_vnni512.inc"
#include "kernels_bf16.inc"

constexpr int kRowsAttention = 8;

inline int rows_left(int rows, int row) {
  return rows - row < kRowsAttention ? rows - row : kRowsAttention;
}

void score_block(const uint16_t* queries, size_t ld, int rows, const char* keys, size_t length,
                 size_t depth, float* scores) {
  const size_t column_bytes = depth / 32 * kTileBytes;  // of 16 keys
  for (size_t j = 0; j < length; j += kBlock) {
    for (int i = 0; i < rows; i += kRowsAttention) {
      any_tile_bf16<2, kRowsAttention>(rows_left(rows, i), queries + i * ld, ld, keys + j / kSide * column_bytes,
                       column_bytes, depth / 2, scores + i * length + j, length);
    }
  }
}

void mix_block(const uint16_t* weights, int rows, const char* values, size_t length, int head_size,
               float* mixed) {
  const size_t column_bytes = length / 32 * kTileBytes;  // of 16 values of all tokens
  for (int i = 0; i < rows; i += kRowsAttention) {
    const uint16_t* row = weights + i * length;
    float* out = mixed + i * head_size;
    const int count = rows_left(rows, i);
    int d = 0;
    for (; d + 32 <= head_size; d += 32) {
      any_tile_bf16<2, kRowsAttention>(count, row, length, values + d / 16 * column_bytes, column_bytes, length / 2,
                       out + d, head_size);
    }
    if (d < head_size) {
      any_tile_bf16<1, kRowsAttention>(count, row, length, values + d / 16 * column_bytes, column_bytes, length / 2,
                       out + d, head_size);
    }
  }
}

// With float32 weights attention is float32 too.
constexpr Kernels kExact = table("avx512bf16", 96);
constexpr Kernels kTable = [] {
  Kernels made = kExact;
  made.exact = &kExact;
  made.is_qkv_bf16 = true;
  made.attention_scratch = attention_scratch_bf16;
  made.attention = attention_bf16;
  return made;
}();
}  // namespace

const Kernels* const kKernelsAvx512Bf16 = &kTable;

}  // namespace polyrank
