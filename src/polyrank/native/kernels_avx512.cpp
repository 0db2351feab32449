// AVX-512 with VNNI.
#include <immintrin.h>

#include <cmath>
#include <cstring>
#include <utility>

#include "kernels.h"

namespace polyrank {
namespace {
#include "kernels_512.inc"
#include "kernels_linear_bf16.inc"
#include "kernels_vnni512.inc"

constexpr Kernels kTable = table("avx512", 96);
}  // namespace

const Kernels* const kKernelsAvx512 = &kTable;

}  // namespace polyrank
