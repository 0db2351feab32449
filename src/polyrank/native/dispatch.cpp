// Chooses the kernels at run time. The only file that names every instruction set.
#include <cstdlib>
#include <cstring>

#include "cpu.h"
#include "kernels.h"

namespace polyrank {
namespace {

struct Path {
  const Kernels* kernels;
  bool runs_here;
};

constexpr int kMaxPaths = 10;

// Best first; ends with a path without kernels.
const Path* paths() {
  [[maybe_unused]] static const CpuFeatures& cpu = cpu_features();
  static const Path found[kMaxPaths] = {
#ifdef POLYRANK_HAVE_AMX
      {kKernelsAmx, cpu.amx_int8 && cpu.amx_bf16 && cpu.avx512 && cpu.avx512_vnni &&
                        cpu.avx512_bf16 && cpu.fma && cpu.f16c},
#endif
#ifdef POLYRANK_HAVE_AVX512BF16
      {kKernelsAvx512Bf16, cpu.quick_bf16 && cpu.avx512_vnni && cpu.fma && cpu.f16c},
#endif
#ifdef POLYRANK_HAVE_AVX512
      {kKernelsAvx512, cpu.avx512 && cpu.avx512_vnni && cpu.fma && cpu.f16c},
#endif
#ifdef POLYRANK_HAVE_AVX512BW
      {kKernelsAvx512Bw, cpu.avx512 && cpu.fma && cpu.f16c},
#endif
#ifdef POLYRANK_HAVE_AVXVNNI
      {kKernelsAvxVnni, cpu.avx_vnni && cpu.avx2 && cpu.fma && cpu.f16c},
#endif
#ifdef POLYRANK_HAVE_AVX2
      {kKernelsAvx2, cpu.avx2 && cpu.fma && cpu.f16c},
#endif
#ifdef POLYRANK_HAVE_NEONI8MM
      {kKernelsNeonI8mm, cpu.neon_dotprod && cpu.neon_i8mm && cpu.neon_bf16},
#endif
#ifdef POLYRANK_HAVE_NEON
      {kKernelsNeon, cpu.neon_dotprod},
#endif
      {kKernelsPortable, true},
      {nullptr, false},
  };
  return found;
}

}  // namespace

const Kernels* choose_kernels(const char* name) {
  if (name == nullptr || *name == 0) name = std::getenv("POLYRANK_ISA");
  const bool any = name == nullptr || *name == 0;
  for (const Path* path = paths(); path->kernels != nullptr; ++path) {
    if (path->runs_here && (any || std::strcmp(path->kernels->name, name) == 0)) {
      return path->kernels;
    }
  }
  return nullptr;
}

const char* const* usable_kernels() {
  static const char* names[kMaxPaths] = {};
  static const bool filled = [] {
    int count = 0;
    for (const Path* path = paths(); path->kernels != nullptr; ++path) {
      if (path->runs_here) names[count++] = path->kernels->name;
    }
    return true;
  }();
  (void)filled;
  return names;
}

}  // namespace polyrank
