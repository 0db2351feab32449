// What the processor and the operating system let this process run. Knows no kernels: the
// dispatcher compares these with the paths that were compiled in (POLYRANK_HAVE_*).
#pragma once

namespace polyrank {

// A field is true only where the processor has the instructions AND the operating system saves
// the registers that they use.
struct CpuFeatures {
  bool avx2 = false;
  bool fma = false;
  bool f16c = false;
  bool avx_vnni = false;
  bool avx512 = false;  // F, BW, DQ and VL together
  bool avx512_vnni = false;
  bool avx512_bf16 = false;
  bool quick_bf16 = false;  // vdpbf16ps at the rate of FMA, so twice its products a second
  bool amx_int8 = false;  // with tiles, and leave from the kernel to use them
  bool amx_bf16 = false;
  bool neon_dotprod = false;
  bool neon_i8mm = false;
  bool neon_bf16 = false;
};

// Found out on the first call, the same object ever after. Safe to call from several threads.
// On Linux the first call asks the kernel for leave to use AMX tiles (see cpu.cpp).
const CpuFeatures& cpu_features();

}  // namespace polyrank
