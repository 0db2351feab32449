// Plain C++ on small vectors, for any processor. Always built and tested.
#include <cmath>
#include <cstring>

#include "kernels.h"

namespace polyrank {
namespace {
constexpr int kLanes = 4;
constexpr int kTileRows = 4;
constexpr int kTileVectors = 2;
#include "kernels.inc"

constexpr int kPanelS8 = 8;

size_t packed_s8_bytes(int n, int k) {
  return static_cast<size_t>((n + kPanelS8 - 1) / kPanelS8) * kPanelS8 * padded_k(k);
}

// [n / 8][k][8]
void pack_s8(const int8_t* weights, int n, int k, int8_t* packed, int32_t* corrections) {
  const size_t depth = padded_k(k);
  std::memset(packed, 0, packed_s8_bytes(n, k));
  for (int j = 0; j < n; ++j) {
    int8_t* panel = packed + static_cast<size_t>(j / kPanelS8) * kPanelS8 * depth;
    for (int i = 0; i < k; ++i) {
      panel[static_cast<size_t>(i) * kPanelS8 + j % kPanelS8] = weights[static_cast<size_t>(j) * k + i];
    }
    corrections[j] = 0;
  }
}

void linear_s8(const int8_t* q, const float* scales, int rows, const LinearS8& linear,
               const Output& out) {
  const size_t depth = padded_k(linear.k);
  alignas(64) int32_t sums[kPanelS8];
  for (int column = 0; column < linear.n; column += kPanelS8) {
    const int8_t* panel = linear.weights + static_cast<size_t>(column) * depth;
    int columns = linear.n - column < kPanelS8 ? linear.n - column : kPanelS8;
    for (int row = 0; row < rows; ++row) {
      const int8_t* a = q + row * depth;
      int32_t c[kPanelS8] = {};
      for (size_t d = 0; d < depth; ++d) {
        for (int j = 0; j < kPanelS8; ++j) c[j] += static_cast<int32_t>(a[d]) * panel[d * kPanelS8 + j];
      }
      std::memcpy(sums, c, sizeof(c));
      write_tile<MakeS8, true>(1, columns, row, column, out,
                               MakeS8{sums, kPanelS8, scales + row, linear.scales + column,
                                      linear.bias + column, nullptr});
    }
  }
}

const Kernels kTable = {
    .name = "portable",
    .exact = nullptr,
    .is_qkv_bf16 = false,
    .row_block = 16,
    .begin = nothing,
    .end = nothing,
    .packed_s8_bytes = packed_s8_bytes,
    .pack_s8 = pack_s8,
    .packed_f32_bytes = packed_f32_bytes,
    .pack_f32 = pack_f32,
    .quantize = quantize<false>,
    .linear_s8 = linear_s8,
    .linear_f32 = linear_f32,
    .attention_scratch = attention_scratch_f32,
    .attention = attention_f32,
    .layer_norm = layer_norm,
};
}  // namespace

const Kernels* const kKernelsPortable = &kTable;

}  // namespace polyrank
