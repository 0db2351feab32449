// The layout of weights of whole numbers, see kernels.h.
#include <cstring>

#include "kernels.h"
#include "tables.h"

namespace polyrank {

void pack_panels(const int8_t* weights, int n, int k, int8_t* panels) {
  const size_t depth = padded_k(k);
  std::memset(panels, 0, panels_bytes(n, k));
  for (int j = 0; j < n; ++j) {
    int8_t* out = panels + static_cast<size_t>(j / kPanelOutputs) * kPanelOutputs * depth +
                  j % kPanelOutputs * 4;
    const int8_t* in = weights + static_cast<size_t>(j) * k;
    int i = 0;
    for (; i + 4 <= k; i += 4) std::memcpy(out + static_cast<size_t>(i) * kPanelOutputs, in + i, 4);
    if (i < k) std::memcpy(out + static_cast<size_t>(i) * kPanelOutputs, in + i, k - i);
  }
}

void pack_blocks(const uint8_t* packed, const uint16_t* scales, int n, int k, int first,
                 uint8_t* weights, float* block_scales) {
  constexpr int half = kBlockInputs / 2;
  const size_t depth = padded_k(k), blocks = static_cast<size_t>(k) / kBlockInputs;
  for (int j = 0; j < n; ++j) {
    const size_t panel = static_cast<size_t>(first + j) / kPanelOutputs;
    const size_t place = static_cast<size_t>(first + j) % kPanelOutputs;
    const uint8_t* in = packed + static_cast<size_t>(j) * blocks * half;
    uint8_t* out = weights + panel * kPanelOutputs * depth + place * 4;
    for (size_t b = 0; b < blocks; ++b, in += half, out += kBlockInputs * kPanelOutputs) {
      for (int i = 0; i < half; ++i) {
        out[i / 4 * 4 * kPanelOutputs + i % 4] = in[i] & 15;
        out[(i + half) / 4 * 4 * kPanelOutputs + i % 4] = in[i] >> 4;
      }
      block_scales[(panel * blocks + b) * kPanelOutputs + place] =
          float16_value(scales[static_cast<size_t>(j) * blocks + b]);
    }
  }
}

void pack_bf16(const float* weights, int n, int k, int first, uint16_t* panels) {
  for (int j = 0; j < n; ++j) {
    const int output = first + j;
    uint16_t* out = panels + static_cast<size_t>(output / kPanelOutputs) * kPanelOutputs * k +
                    output % kPanelOutputs * 2;
    const float* in = weights + static_cast<size_t>(j) * k;
    for (int i = 0; i < k; ++i) {
      uint32_t bits;
      std::memcpy(&bits, in + i, 4);
      const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
      out[static_cast<size_t>(i / 2) * 2 * kPanelOutputs + i % 2] =
          static_cast<uint16_t>(in[i] == in[i] ? rounded : 0x7fc0);
    }
  }
}

void offset_corrections(const int8_t* panels, int n, int k, int32_t* corrections) {
  const size_t depth = padded_k(k);
  for (int first = 0; first < n; first += kPanelOutputs) {
    int32_t sums[kPanelOutputs] = {};
    const int8_t* at = panels + static_cast<size_t>(first) * depth;
    for (size_t i = 0; i < depth; i += 4, at += kPanelOutputs * 4) {
      for (int j = 0; j < kPanelOutputs; ++j) {
        sums[j] += at[4 * j] + at[4 * j + 1] + at[4 * j + 2] + at[4 * j + 3];
      }
    }
    for (int j = 0; j < kPanelOutputs && first + j < n; ++j) corrections[first + j] = -128 * sums[j];
  }
}

}  // namespace polyrank
