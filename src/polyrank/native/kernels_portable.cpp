// Plain C++ on small vectors, for any processor. Always built and tested.
#include <cmath>
#include <cstring>
#include <utility>

#include "kernels.h"

namespace polyrank {
namespace {
constexpr int kLanes = 4;
constexpr int kTileRows = 4;
constexpr int kTileVectors = 2;
#include "kernels.inc"

using Step = int8_t;
constexpr int kMostPanels = 1;
constexpr int kRowsS8 = 2;
constexpr bool kIsUnsigned = false;

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

#include "kernels_s8.inc"

constexpr Kernels kTable = table("portable", 64);
}  // namespace

const Kernels* const kKernelsPortable = &kTable;

}  // namespace polyrank
