// AVX-512 with VNNI.
#include <immintrin.h>

#include <cmath>
#include <cstring>

#include "kernels.h"

namespace polyrank {
namespace {
constexpr int kLanes = 16;
constexpr int kTileRows = 6;
constexpr int kTileVectors = 4;
#include "kernels.inc"
#include "kernels_avx512.inc"

const Kernels kTable = {
    .name = "avx512",
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

const Kernels* const kKernelsAvx512 = &kTable;

}  // namespace polyrank
