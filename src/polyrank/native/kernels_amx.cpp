// AMX tiles: int8 products for linear layers, bfloat16 products for attention. Everything else is
// AVX-512, and so are float32 linear layers.
//
// Tiles hold 16 rows of 64 bytes. A block of 32 rows by 32 outputs takes four tiles of sums, two
// of activations and two of weights, of neighbouring panels.
#include <immintrin.h>

#include <cmath>
#include <cstring>
#include <utility>

#include "kernels.h"

namespace polyrank {
namespace {
#include "kernels_512.inc"

constexpr int kSide = 16;              // rows of a tile
constexpr int kTileBytes = 1024;
constexpr int kBlock = 2 * kSide;      // rows and columns of a block of four tiles
static_assert(kSide == kPanelOutputs);

struct alignas(64) TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
// Not built on the stack: GCC's intrinsic tells the compiler of the first eight bytes only, and
// the others might not be written yet.
const TileConfig kConfig = {1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64},
                            {16, 16, 16, 16, 16, 16, 16, 16}};

void begin() { _tile_loadconfig(&kConfig); }

void end() { _tile_release(); }

// Makes memory hold what was written before tiles are loaded from it: GCC's tile loads do not tell
// the compiler that they read memory.
inline void settle() { __asm__ volatile("" ::: "memory"); }

// Sums of one block into (32, 32) int32. With 16 rows or fewer the lower tiles are left out.
// `between` is called after each step of 64 inputs, so that other work can fill the time that the
// tiles take.
template <typename Between>
inline void block_s8(const int8_t* q, size_t depth, bool has_lower, const int8_t* panels,
                     int32_t* sums, Between between) {
  settle();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (size_t d = 0; d < depth; d += 64) {
    _tile_loadd(4, q + d, depth);
    _tile_loadd(6, panels + d * kSide, 64);
    _tile_loadd(7, panels + (depth + d) * kSide, 64);
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    if (has_lower) {
      _tile_loadd(5, q + kSide * depth + d, depth);
      _tile_dpbssd(2, 5, 6);
      _tile_dpbssd(3, 5, 7);
    }
    between();
  }
  _tile_stored(0, sums, kBlock * 4);
  _tile_stored(1, sums + kSide, kBlock * 4);
  if (has_lower) {
    _tile_stored(2, sums + kSide * kBlock, kBlock * 4);
    _tile_stored(3, sums + kSide * kBlock + kSide, kBlock * 4);
  }
}

// Rows of q beyond `rows` are read up to a multiple of 16, and their sums dropped.
void linear_s8(const void* steps_of_rows, const float* scales, int rows, const LinearS8& linear,
               const Output& out) {
  const int8_t* q = static_cast<const int8_t*>(steps_of_rows);
  const size_t depth = padded_k(linear.k);
  const int steps = static_cast<int>(depth / 64);
  const int rows_a_step = (kBlock + steps - 1) / steps;
  alignas(64) int32_t sums[2][kBlock * kBlock];
  int turn = 0;
  // The block before the one in the tiles: its sums are written out between their steps, since
  // the two blocks lie too far apart in the program for the processor to overlap them by itself.
  int last_row = 0, last_column = 0, last_count = 0, written = 0;
  auto write = [&](int count) {
    count = last_count - written < count ? last_count - written : count;
    if (count <= 0) return;
    int row = last_row + written;
    write_tile<MakeS8, true>(count, kBlock, row, last_column, out,
                             MakeS8{sums[turn ^ 1] + written * kBlock, kBlock, scales + row,
                                    linear.scales + last_column, linear.bias + last_column,
                                    nullptr});
    written += count;
  };
  for (int column = 0; column < linear.n; column += kBlock) {
    const int8_t* panels = linear.weights + static_cast<size_t>(column) * depth;
    for (int row = 0; row < rows; row += kBlock) {
      int count = rows - row < kBlock ? rows - row : kBlock;
      block_s8(q + row * depth, depth, count > kSide, panels, sums[turn],
               [&] { write(rows_a_step); });
      turn ^= 1;
      last_row = row;
      last_column = column;
      last_count = count;
      written = 0;
    }
  }
  write(kBlock);
}

// --- attention ------------------------------------------------------------------------------

inline size_t padded_length(int seq_len) {
  return (static_cast<size_t>(seq_len) + kBlock - 1) / kBlock * kBlock;
}
inline size_t padded_depth(int head_size) {
  return (static_cast<size_t>(head_size) + 31) / 32 * 32;
}

size_t attention_scratch_bf16(int seq_len, int head_size) {
  size_t length = padded_length(seq_len), depth = padded_depth(head_size);
  return length * depth * 2 * 2 + kBlock * depth * 2 + kBlock * length * 6 +
         kBlock * depth * 4 + 1024;
}

// 16 rows of 16 dwords to 16 columns.
inline void transpose_dwords(const __m512i* in, char* out) {
  __m512i a[16], b[16];
  for (int i = 0; i < 8; ++i) {
    a[2 * i] = _mm512_unpacklo_epi32(in[2 * i], in[2 * i + 1]);
    a[2 * i + 1] = _mm512_unpackhi_epi32(in[2 * i], in[2 * i + 1]);
  }
  for (int i = 0; i < 4; ++i) {
    b[4 * i] = _mm512_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
    b[4 * i + 1] = _mm512_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
    b[4 * i + 2] = _mm512_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
    b[4 * i + 3] = _mm512_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
  }
  // b[4g + c] holds, in 128-bit lane l, rows 4g..4g+3 of column 4l + c
  for (int c = 0; c < 4; ++c) {
    __m512i x = _mm512_shuffle_i32x4(b[c], b[4 + c], 0x88);
    __m512i y = _mm512_shuffle_i32x4(b[c], b[4 + c], 0xdd);
    __m512i z = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0x88);
    __m512i w = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0xdd);
    _mm512_store_si512(out + 64 * c, _mm512_shuffle_i32x4(x, z, 0x88));
    _mm512_store_si512(out + 64 * (4 + c), _mm512_shuffle_i32x4(y, w, 0x88));
    _mm512_store_si512(out + 64 * (8 + c), _mm512_shuffle_i32x4(x, z, 0xdd));
    _mm512_store_si512(out + 64 * (12 + c), _mm512_shuffle_i32x4(y, w, 0xdd));
  }
}

// Keys as tiles [length / 16][depth / 32]: row r holds values 2r and 2r + 1 of 16 keys.
void pack_keys(const uint16_t* keys, size_t ld, int seq_len, int head_size, char* out) {
  const int length = static_cast<int>(padded_length(seq_len));
  const int depth = static_cast<int>(padded_depth(head_size));
  for (int j = 0; j < length; j += kSide) {
    for (int d = 0; d < depth; d += 32) {
      int left = head_size - d < 32 ? head_size - d : 32;
      __mmask32 present = left == 32 ? ~0u : (1u << left) - 1;
      __m512i rows[16];
      for (int i = 0; i < 16; ++i) {
        rows[i] = j + i < seq_len ? _mm512_maskz_loadu_epi16(present, keys + (j + i) * ld + d)
                                  : _mm512_setzero_si512();
      }
      transpose_dwords(rows, out);
      out += kTileBytes;
    }
  }
}

// Values as tiles [head_size / 16][length / 32]: row r holds 16 values of tokens 2r and 2r + 1.
void pack_values(const uint16_t* values, size_t ld, int seq_len, int head_size, char* out) {
  const int length = static_cast<int>(padded_length(seq_len));
  for (int d = 0; d < head_size; d += 16) {
    for (int j = 0; j < length; j += 2) {
      __m256i none = _mm256_setzero_si256();
      __m256i even = j < seq_len
                         ? _mm256_loadu_si256((const __m256i*)(values + j * ld + d)) : none;
      __m256i odd = j + 1 < seq_len
                        ? _mm256_loadu_si256((const __m256i*)(values + (j + 1) * ld + d)) : none;
      __m512i pairs = _mm512_or_si512(_mm512_cvtepu16_epi32(even),
                                      _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
      _mm512_store_si512(out, pairs);
      out += 64;
    }
  }
}

// 2^x to 4e-6; weights are rounded to bfloat16 afterwards. NaN stays NaN, small x give 0.
inline __m512 rough_power_of_two(__m512 x) {
  __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 f = _mm512_sub_ps(x, whole);
  __m512 p = _mm512_set1_ps(9.6181291e-3f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.5504109e-2f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.4022651e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.9314718e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, whole);
}

// Scores of one row to bfloat16 weights, zero beyond seq_len; returns 1 / their sum. `scale`
// includes log2(e). Whole vectors first, then what is left of the last 32 keys under masks.
inline float soften_bf16(const float* scores, int seq_len, float scale, uint16_t* out) {
  const int whole = seq_len / 32 * 32, left = seq_len - whole;
  const __mmask16 low = left >= 16 ? 0xffff : (1u << left) - 1;
  const __mmask16 high = left > 16 ? (1u << (left - 16)) - 1 : 0;
  const __m512 none = _mm512_set1_ps(-3e38f);
  __m512 best = none, best2 = none;
  for (int j = 0; j < whole; j += 32) {
    best = _mm512_max_ps(_mm512_loadu_ps(scores + j), best);
    best2 = _mm512_max_ps(_mm512_loadu_ps(scores + j + 16), best2);
  }
  if (left > 0) {
    best = _mm512_max_ps(_mm512_mask_loadu_ps(none, low, scores + whole), best);
    best2 = _mm512_max_ps(_mm512_mask_loadu_ps(none, high, scores + whole + 16), best2);
  }
  const __m512 factor = _mm512_set1_ps(scale);
  const __m512 shift = _mm512_set1_ps(_mm512_reduce_max_ps(_mm512_max_ps(best, best2)) * scale);
  __m512 total = _mm512_setzero_ps(), total2 = total;
  for (int j = 0; j < whole; j += 32) {
    __m512 v = rough_power_of_two(_mm512_fmsub_ps(_mm512_loadu_ps(scores + j), factor, shift));
    __m512 w = rough_power_of_two(_mm512_fmsub_ps(_mm512_loadu_ps(scores + j + 16), factor, shift));
    total = _mm512_add_ps(total, v);
    total2 = _mm512_add_ps(total2, w);
    _mm512_storeu_si512(out + j, (__m512i)_mm512_cvtne2ps_pbh(w, v));
  }
  if (left > 0) {
    __m512 v = _mm512_maskz_loadu_ps(low, scores + whole);
    __m512 w = _mm512_maskz_loadu_ps(high, scores + whole + 16);
    v = _mm512_maskz_mov_ps(low, rough_power_of_two(_mm512_fmsub_ps(v, factor, shift)));
    w = _mm512_maskz_mov_ps(high, rough_power_of_two(_mm512_fmsub_ps(w, factor, shift)));
    total = _mm512_add_ps(total, v);
    total2 = _mm512_add_ps(total2, w);
    _mm512_storeu_si512(out + whole, (__m512i)_mm512_cvtne2ps_pbh(w, v));
  }
  return 1.0f / _mm512_reduce_add_ps(_mm512_add_ps(total, total2));
}

// (32, length) scores of 32 queries, 16 of them where !has_lower.
inline void score_block(const uint16_t* queries, size_t ld, bool has_lower, const char* keys,
                        size_t length, size_t depth, float* scores) {
  const size_t row_bytes = length * 4;
  settle();
  for (size_t j = 0; j < length; j += kBlock) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (size_t d = 0; d < depth; d += 32) {
      const char* tile = keys + (j / kSide * (depth / 32) + d / 32) * kTileBytes;
      _tile_loadd(4, queries + d, ld * 2);
      _tile_loadd(6, tile, 64);
      _tile_loadd(7, tile + depth / 32 * kTileBytes, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      if (has_lower) {
        _tile_loadd(5, queries + kSide * ld + d, ld * 2);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
    }
    _tile_stored(0, scores + j, row_bytes);
    _tile_stored(1, scores + j + kSide, row_bytes);
    if (has_lower) {
      _tile_stored(2, scores + kSide * length + j, row_bytes);
      _tile_stored(3, scores + kSide * length + j + kSide, row_bytes);
    }
  }
}

// (32, head_size) weighted sums of values.
inline void mix_block(const uint16_t* weights, bool has_lower, const char* values, size_t length,
                      int head_size, float* mixed) {
  const size_t column_bytes = length / 32 * kTileBytes;
  settle();
  for (int d = 0; d < head_size; d += kBlock) {
    const char* left = values + d / 16 * column_bytes;
    const bool has_right = d + 16 < head_size;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (size_t j = 0; j < length; j += 32) {
      _tile_loadd(4, weights + j, length * 2);
      _tile_loadd(6, left + j * 32, 64);
      _tile_dpbf16ps(0, 4, 6);
      if (has_right) {
        _tile_loadd(7, left + column_bytes + j * 32, 64);
        _tile_dpbf16ps(1, 4, 7);
      }
      if (has_lower) {
        _tile_loadd(5, weights + kSide * length + j, length * 2);
        _tile_dpbf16ps(2, 5, 6);
        if (has_right) _tile_dpbf16ps(3, 5, 7);
      }
    }
    const size_t row_bytes = static_cast<size_t>(head_size) * 4;
    _tile_stored(0, mixed + d, row_bytes);
    if (has_right) _tile_stored(1, mixed + d + 16, row_bytes);
    if (has_lower) {
      _tile_stored(2, mixed + kSide * head_size + d, row_bytes);
      if (has_right) _tile_stored(3, mixed + kSide * head_size + d + 16, row_bytes);
    }
  }
}

void attention_bf16(const AttentionCall& call) {
  const uint16_t* qkv = static_cast<const uint16_t*>(call.qkv);
  const size_t length = padded_length(call.seq_len), depth = padded_depth(call.head_size);
  char* at = call.scratch;
  char* keys = at;
  at += length * depth * 2;
  char* values = at;
  at += length * depth * 2;
  float* scores = reinterpret_cast<float*>(at);
  at += kBlock * length * 4;
  uint16_t* weights = reinterpret_cast<uint16_t*>(at);
  at += kBlock * length * 2;
  float* mixed = reinterpret_cast<float*>(at);
  at += kBlock * depth * 4;
  uint16_t* queries = reinterpret_cast<uint16_t*>(at);

  pack_keys(qkv + call.key_at, call.ld, call.seq_len, call.head_size, keys);
  pack_values(qkv + call.value_at, call.ld, call.seq_len, call.head_size, values);
  const float scale = 1.44269504f / std::sqrt(static_cast<float>(call.head_size));
  for (int row = call.query_begin; row < call.query_end; row += kBlock) {
    int rows = call.query_end - row < kBlock ? call.query_end - row : kBlock;
    const bool has_lower = rows > kSide;
    // copied: a tile reads 16 whole rows, and the last rows may be the last of the buffer
    for (int i = 0; i < (has_lower ? kBlock : kSide); ++i) {
      for (size_t d = 0; d < depth; d += 32) {
        int left = call.head_size - static_cast<int>(d);
        __mmask32 present = i >= rows ? 0 : left >= 32 ? ~0u : (1u << left) - 1;
        const uint16_t* query = qkv + (row + (i < rows ? i : 0)) * call.ld + call.query_at + d;
        _mm512_storeu_si512(queries + i * depth + d, _mm512_maskz_loadu_epi16(present, query));
      }
    }
    score_block(queries, depth, has_lower, keys, length, depth, scores);
    float inverse[kBlock];
    for (int i = 0; i < rows; ++i) {
      inverse[i] = soften_bf16(scores + i * length, call.seq_len, scale, weights + i * length);
    }
    mix_block(weights, has_lower, values, length, call.head_size, mixed);
    for (int i = 0; i < rows; ++i) {
      float* out = call.context + (row + i) * call.ld_context;
      for (int d = 0; d < call.head_size; d += kLanes) {
        store(out + d, load(mixed + i * call.head_size + d) * inverse[i]);
      }
    }
  }
}

constexpr Kernels table(const Kernels* exact) {
  const bool is_narrow = exact != nullptr;
  return {
      .name = "amx",
      .exact = exact,
      .is_qkv_bf16 = is_narrow,
      .row_block = is_narrow ? 64 : 96,
      .is_unsigned = false,
      .step_bytes = 1,
      .begin = is_narrow ? begin : nothing,
      .end = is_narrow ? end : nothing,
      .packed_f32_bytes = packed_f32_bytes,
      .pack_f32 = pack_f32,
      .quantize = quantize<false, int8_t>,
      .linear_s8 = linear_s8,
      .quantize_blocks = nullptr,
      .linear_s4 = nullptr,
      .linear_f32 = linear_f32,
      .attention_scratch = is_narrow ? attention_scratch_bf16 : attention_scratch_f32,
      .attention = is_narrow ? attention_bf16 : attention_f32,
      .layer_norm = layer_norm,
      .clean = clean,
      .match = match,
  };
}

// With float32 weights attention is float32 too.
constexpr Kernels kExact = table(nullptr);
constexpr Kernels kTable = table(&kExact);
}  // namespace

const Kernels* const kKernelsAmx = &kTable;

}  // namespace polyrank
