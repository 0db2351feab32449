// AVX2 with AVX-VNNI, as on recent processors for laptops.
#include <immintrin.h>

#include <cmath>
#include <cstring>

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

constexpr int kPanelS8 = 16;
constexpr int kRowsS8 = 6;

size_t packed_s8_bytes(int n, int k) {
  return static_cast<size_t>((n + kPanelS8 - 1) / kPanelS8) * kPanelS8 * padded_k(k);
}

// [n / 16][k / 4][16][4]; activations are unsigned (offset 128), corrected by the weights' sums
void pack_s8(const int8_t* weights, int n, int k, int8_t* packed, int32_t* corrections) {
  const size_t depth = padded_k(k);
  std::memset(packed, 0, packed_s8_bytes(n, k));
  for (int j = 0; j < n; ++j) {
    int8_t* panel = packed + static_cast<size_t>(j / kPanelS8) * kPanelS8 * depth;
    const int8_t* in = weights + static_cast<size_t>(j) * k;
    int32_t sum = 0;
    for (int i = 0; i < k; ++i) {
      panel[static_cast<size_t>(i / 4) * kPanelS8 * 4 + (j % kPanelS8) * 4 + i % 4] = in[i];
      sum += in[i];
    }
    corrections[j] = -128 * sum;
  }
}

template <int kRows>
__attribute__((noinline)) void tile_s8(const int8_t* q, size_t ld, const int8_t* panel,
                                       size_t depth, int32_t* sums) {
  __m256i c[kRows][2];
  for (int i = 0; i < kRows; ++i) c[i][0] = c[i][1] = _mm256_setzero_si256();
  for (size_t d = 0; d < depth; d += 4) {
    const __m256i* b = reinterpret_cast<const __m256i*>(panel + d * kPanelS8);
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
  for (int i = 0; i < kRows; ++i) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(sums + i * kPanelS8), c[i][0]);
    _mm256_store_si256(reinterpret_cast<__m256i*>(sums + i * kPanelS8 + 8), c[i][1]);
  }
}

template <int kRows = kRowsS8>
inline void any_tile_s8(int rows, const int8_t* q, size_t ld, const int8_t* panel, size_t depth,
                        int32_t* sums) {
  if constexpr (kRows > 0) {
    if (rows == kRows) return tile_s8<kRows>(q, ld, panel, depth, sums);
    any_tile_s8<kRows - 1>(rows, q, ld, panel, depth, sums);
  }
}

void linear_s8(const int8_t* q, const float* scales, int rows, const LinearS8& linear,
               const Output& out) {
  const size_t depth = padded_k(linear.k);
  alignas(64) int32_t sums[kRowsS8 * kPanelS8];
  for (int column = 0; column < linear.n; column += kPanelS8) {
    const int8_t* panel = linear.weights + static_cast<size_t>(column) * depth;
    for (int row = 0; row < rows; row += kRowsS8) {
      int count = rows - row < kRowsS8 ? rows - row : kRowsS8;
      any_tile_s8(count, q + row * depth, depth, panel, depth, sums);
      write_tile<MakeS8, true>(count, kPanelS8, row, column, out,
                               MakeS8{sums, kPanelS8, scales + row, linear.scales + column,
                                      linear.bias + column, linear.corrections + column});
    }
  }
}

const Kernels kTable = {
    .name = "avxvnni",
    .exact = nullptr,
    .is_qkv_bf16 = false,
    .row_block = 48,
    .begin = nothing,
    .end = nothing,
    .packed_s8_bytes = packed_s8_bytes,
    .pack_s8 = pack_s8,
    .packed_f32_bytes = packed_f32_bytes,
    .pack_f32 = pack_f32,
    .quantize = quantize<true>,
    .linear_s8 = linear_s8,
    .linear_f32 = linear_f32,
    .attention_scratch = attention_scratch_f32,
    .attention = attention_f32,
    .layer_norm = layer_norm,
};
}  // namespace

const Kernels* const kKernelsAvxVnni = &kTable;

}  // namespace polyrank
