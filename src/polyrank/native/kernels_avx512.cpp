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
#define POLYRANK_OWN_NARROWING
#include "kernels.inc"

inline void store_bytes(int8_t* p, IntVec v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8((__m512i)v));
}

void store_bf16(uint16_t* p, Vec v) {
  IntVec bits = float_to_bits(v);
  IntVec rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  rounded = v == v ? rounded : splat_int(0x7fc0);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16((__m512i)rounded));
}

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
