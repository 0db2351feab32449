// Tests of the kernels without Python, built and run by `make check-native` and
// `make check-native-arm`. With --paths it prints the paths that this processor runs, one a line;
// the targets then run it once for each, named in POLYRANK_ISA.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cpu.h"

namespace {

int num_failed = 0;

void check(bool holds, const char* claim) {
  if (holds) return;
  std::fprintf(stderr, "FAILED: %s\n", claim);
  ++num_failed;
}

void print_paths() {
  [[maybe_unused]] const polyrank::CpuFeatures& cpu = polyrank::cpu_features();
  std::puts("portable");
#ifdef POLYRANK_HAVE_NEON
  if (cpu.neon_dotprod) std::puts("neon");
#endif
#ifdef POLYRANK_HAVE_AVX2
  if (cpu.avx2 && cpu.fma && cpu.f16c) std::puts("avx2");
#endif
#ifdef POLYRANK_HAVE_AVXVNNI
  if (cpu.avx_vnni && cpu.fma && cpu.f16c) std::puts("avxvnni");
#endif
#ifdef POLYRANK_HAVE_AVX512
  if (cpu.avx512_vnni && cpu.fma && cpu.f16c) std::puts("avx512");
#endif
#ifdef POLYRANK_HAVE_AMX
  if (cpu.amx_int8 && cpu.amx_bf16 && cpu.avx512_vnni && cpu.avx512_bf16) std::puts("amx");
#endif
}

void test_cpu_features() {
  const polyrank::CpuFeatures& cpu = polyrank::cpu_features();
  check(&cpu == &polyrank::cpu_features(), "features are found out once");
  check(!cpu.avx_vnni || cpu.avx2, "AVX-VNNI comes with AVX2");
  check(!cpu.avx512 || cpu.avx2, "AVX-512 comes with AVX2");
  check(!cpu.avx512_vnni || cpu.avx512, "AVX-512 VNNI comes with AVX-512");
  check(!cpu.avx512_bf16 || cpu.avx512, "AVX-512 BF16 comes with AVX-512");
  check(!cpu.amx_int8 || cpu.avx512, "AMX comes with AVX-512");
#if defined(__x86_64__) || defined(_M_X64)
  check(!cpu.neon_dotprod, "x86-64 has no NEON");
#else
  check(!cpu.avx2 && !cpu.avx512 && !cpu.amx_int8, "only x86-64 has AVX and AMX");
#endif
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], "--paths") == 0) {
    print_paths();
    return 0;
  }
  test_cpu_features();
  const char* isa = std::getenv("POLYRANK_ISA");
  std::printf("%s: %s\n", isa ? isa : "default", num_failed == 0 ? "passed" : "failed");
  return num_failed == 0 ? 0 : 1;
}
