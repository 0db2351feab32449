// The layout of int8 weights, see kernels.h.
#include <cstring>

#include "kernels.h"

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
