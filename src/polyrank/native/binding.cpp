// The Python face of the native code: polyrank._native. Holds no arithmetic.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "cpu.h"

namespace nb = nanobind;

namespace {

nb::dict cpu_features() {
  const polyrank::CpuFeatures& cpu = polyrank::cpu_features();
  nb::dict out;
  out["avx2"] = cpu.avx2;
  out["fma"] = cpu.fma;
  out["f16c"] = cpu.f16c;
  out["avx_vnni"] = cpu.avx_vnni;
  out["avx512"] = cpu.avx512;
  out["avx512_vnni"] = cpu.avx512_vnni;
  out["avx512_bf16"] = cpu.avx512_bf16;
  out["amx_int8"] = cpu.amx_int8;
  out["amx_bf16"] = cpu.amx_bf16;
  out["neon_dotprod"] = cpu.neon_dotprod;
  return out;
}

// From plain to fast.
std::vector<std::string> compiled_paths() {
  return {
#ifdef POLYRANK_HAVE_PORTABLE
    "portable",
#endif
#ifdef POLYRANK_HAVE_NEON
    "neon",
#endif
#ifdef POLYRANK_HAVE_AVX2
    "avx2",
#endif
#ifdef POLYRANK_HAVE_AVXVNNI
    "avxvnni",
#endif
#ifdef POLYRANK_HAVE_AVX512
    "avx512",
#endif
#ifdef POLYRANK_HAVE_AMX
    "amx",
#endif
  };
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "Kernels and forward pass of the native encoder.";
  m.def("cpu_features", &cpu_features,
          "Return which instructions the processor and the operating system let run.");
  m.def("compiled_paths", &compiled_paths,
          "Return the kernel paths of this build, from plain to fast.");
}
