// AMX tiles: int8 and bfloat16 products for linear layers, bfloat16 products for attention.
// Everything else is AVX-512, and so are float32 linear layers.
//
// Tiles hold 16 rows of 64 bytes. A block of 32 rows by 32 outputs takes four tiles of sums, two
// of activations and two of weights, of neighbouring panels.
#include <immintrin.h>

#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>

#include "kernels.h"

namespace polyrank {
namespace {
#include "kernels_512.inc"
#define POLYRANK_OWN_BF16
#define POLYRANK_OWN_LINEAR_BF16
#include "kernels_linear_bf16.inc"
#include "kernels_bf16.inc"
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

// Sums of one block into (32, 32) int32 or, of bfloat16 values, float. With 16 rows or fewer the lower
// tiles are left out. `between` is called after each step of 64 bytes of inputs, so that other work
// can fill the time that the tiles take.
template <typename Sum, typename Between>
inline void block_of(const char* rows, size_t row_bytes, bool has_lower, const char* panels,
                     Sum* sums, Between between) {
  constexpr bool kIsBf16 = std::is_same_v<Sum, float>;
  settle();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (size_t d = 0; d < row_bytes; d += 64) {
    _tile_loadd(4, rows + d, row_bytes);
    _tile_loadd(6, panels + d * kSide, 64);
    _tile_loadd(7, panels + (row_bytes + d) * kSide, 64);
    if constexpr (kIsBf16) {
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
    } else {
      _tile_dpbssd(0, 4, 6);
      _tile_dpbssd(1, 4, 7);
    }
    if (has_lower) {
      _tile_loadd(5, rows + kSide * row_bytes + d, row_bytes);
      if constexpr (kIsBf16) {
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      } else {
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
      }
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

// Rows lie row_bytes apart, a multiple of 64; those beyond `rows` are read up to a multiple of 16, and
// their sums dropped. `make` turns sums of a row and a column on into what write_tile takes.
template <typename Sum, typename Make, typename MakeFrom>
inline void linear_in_tiles(const char* in, size_t row_bytes, int rows, const char* weights, int n,
                            const Output& out, MakeFrom make) {
  const int steps = static_cast<int>(row_bytes / 64);
  const int rows_a_step = (kBlock + steps - 1) / steps;
  alignas(64) Sum sums[2][kBlock * kBlock];
  int turn = 0;
  // The block before the one in the tiles: its sums are written out between their steps, since
  // the two blocks lie too far apart in the program for the processor to overlap them by itself.
  int last_row = 0, last_column = 0, last_count = 0, written = 0;
  auto write = [&](int count) {
    count = last_count - written < count ? last_count - written : count;
    if (count <= 0) return;
    const int row = last_row + written;
    write_tile<Make, true>(count, kBlock, row, last_column, out,
                           make(sums[turn ^ 1] + written * kBlock, row, last_column));
    written += count;
  };
  for (int column = 0; column < n; column += kBlock) {
    const char* panels = weights + static_cast<size_t>(column) * row_bytes;
    for (int row = 0; row < rows; row += kBlock) {
      int count = rows - row < kBlock ? rows - row : kBlock;
      block_of(in + row * row_bytes, row_bytes, count > kSide, panels, sums[turn],
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

void linear_s8(const void* q, const float* scales, int rows, const LinearS8& linear,
               const Output& out) {
  linear_in_tiles<int32_t, MakeS8>(
      static_cast<const char*>(q), padded_k(linear.k), rows,
      reinterpret_cast<const char*>(linear.weights), linear.n, out,
      [&](const int32_t* sums, int row, int column) {
        return MakeS8{sums, kBlock, scales + row, linear.scales + column, linear.bias + column,
                      nullptr};
      });
}

void linear_bf16(const void* rounded, int rows, const LinearBf16& linear, const Output& out) {
  linear_in_tiles<float, MakeF32>(
      static_cast<const char*>(rounded), static_cast<size_t>(linear.k) * 2, rows,
      reinterpret_cast<const char*>(linear.weights), linear.n, out,
      [&](const float* sums, int, int column) {
        return MakeF32{sums, kBlock, linear.bias + column};
      });
}

// --- attention ------------------------------------------------------------------------------

// (32, length) scores of 32 queries, 16 of them where !has_lower.
void score_block(const uint16_t* queries, size_t ld, int rows, const char* keys, size_t length,
                 size_t depth, float* scores) {
  const bool has_lower = rows > kSide;
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
void mix_block(const uint16_t* weights, int rows, const char* values, size_t length, int head_size,
               float* mixed) {
  const bool has_lower = rows > kSide;
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
      .bf16_bytes = sizeof(Rounded),
      .round_rows = round_rows,
      .linear_bf16 = linear_bf16,
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
