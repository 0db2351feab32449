#include "cpu.h"

#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#define POLYRANK_X86_64 1
#include <cpuid.h>  // __get_cpuid_count only; GCC, Clang and clang-cl have it
#elif defined(__aarch64__) || defined(_M_ARM64)
#define POLYRANK_AARCH64 1
#endif

#if defined(__linux__) && defined(POLYRANK_X86_64)
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__linux__) && defined(POLYRANK_AARCH64)
#include <sys/auxv.h>
#elif defined(__APPLE__) && defined(POLYRANK_AARCH64)
#include <sys/sysctl.h>
#elif defined(_WIN32) && defined(POLYRANK_AARCH64)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#endif

namespace polyrank {
namespace {

#if defined(POLYRANK_X86_64)

struct Leaf {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// All zeros where the processor does not know the leaf.
Leaf cpuid(unsigned leaf, unsigned subleaf) {
  Leaf out;
  if (!__get_cpuid_count(leaf, subleaf, &out.eax, &out.ebx, &out.ecx, &out.edx)) return Leaf{};
  return out;
}

bool bit(unsigned word, int index) { return (word >> index) & 1u; }

// The registers that the operating system saves on a switch. Only call with OSXSAVE set.
std::uint64_t xcr0() {
  std::uint32_t low, high;
  __asm__ volatile(".byte 0x0f, 0x01, 0xd0" : "=a"(low), "=d"(high) : "c"(0));  // xgetbv
  return (static_cast<std::uint64_t>(high) << 32) | low;
}

constexpr std::uint64_t kAvxState = 0x6;         // XMM, YMM
constexpr std::uint64_t kAvx512State = 0xe6;     // and masks, upper ZMM, ZMM16 to 31
constexpr std::uint64_t kTileState = 0x3 << 17;  // tile configuration, tile data

// Linux gives tiles only to a process that asks: 8 KiB more in each signal frame. The grant holds
// for all threads and for children. Afterwards sigaltstack refuses stacks that are too small for
// such frames, so this asks only where the processor has tiles. No other system needs asking.
bool tiles_granted() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM, Linux 5.16
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return true;
#endif
}

// AMD's cores (Zen 4 and later) do bfloat16 products as often as float32 ones. Intel's do them half as
// often at best (measured on Sapphire Rapids: 81 to 85 GFLOPS a thread against 167 to 175).
bool is_amd() {
  const Leaf zero = cpuid(0, 0);
  return zero.ebx == 0x68747541 && zero.edx == 0x69746e65 && zero.ecx == 0x444d4163;  // AuthenticAMD
}

CpuFeatures detect() {
  CpuFeatures out;
  const Leaf one = cpuid(1, 0);
  if (!bit(one.ecx, 27)) return out;  // OSXSAVE
  const std::uint64_t saved = xcr0();
  if ((saved & kAvxState) != kAvxState || !bit(one.ecx, 28)) return out;  // AVX

  const Leaf seven = cpuid(7, 0);
  const Leaf more = seven.eax >= 1 ? cpuid(7, 1) : Leaf{};
  out.avx2 = bit(seven.ebx, 5);
  out.fma = bit(one.ecx, 12);
  out.f16c = bit(one.ecx, 29);
  out.avx_vnni = out.avx2 && bit(more.eax, 4);

  // macOS turns this state on at first use, so an Intel Mac runs the AVX2 path.
  if ((saved & kAvx512State) != kAvx512State) return out;
  out.avx512 = bit(seven.ebx, 16) && bit(seven.ebx, 17) && bit(seven.ebx, 30) &&
               bit(seven.ebx, 31);  // F, DQ, BW, VL
  out.avx512_vnni = out.avx512 && bit(seven.ecx, 11);
  out.avx512_bf16 = out.avx512 && bit(more.eax, 5);
  out.quick_bf16 = out.avx512_bf16 && is_amd();

  const bool has_tiles = bit(seven.edx, 24) && (saved & kTileState) == kTileState;
  if (has_tiles && tiles_granted()) {
    out.amx_int8 = bit(seven.edx, 25);
    out.amx_bf16 = bit(seven.edx, 22);
  }
  return out;
}

#elif defined(POLYRANK_AARCH64)

#if defined(__APPLE__)
bool feature(const char* name, bool where_unnamed) {
  int value = 0;
  size_t size = sizeof(value);
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 ? value != 0 : where_unnamed;
}
#endif

CpuFeatures detect() {
  CpuFeatures out;
#if defined(__linux__)
  constexpr unsigned long kDotProduct = 1ul << 20;  // HWCAP_ASIMDDP
  constexpr unsigned long kInt8Matrices = 1ul << 13;  // HWCAP2_I8MM
  constexpr unsigned long kBfloat16 = 1ul << 14;      // HWCAP2_BF16
  const unsigned long more = getauxval(AT_HWCAP2);
  out.neon_dotprod = (getauxval(AT_HWCAP) & kDotProduct) != 0;
  out.neon_i8mm = (more & kInt8Matrices) != 0;
  out.neon_bf16 = (more & kBfloat16) != 0;
#elif defined(__APPLE__)
  // Every Apple Silicon Mac has the dot product; its name is missing on the oldest system only.
  out.neon_dotprod = feature("hw.optional.arm.FEAT_DotProd", true);
  out.neon_i8mm = feature("hw.optional.arm.FEAT_I8MM", false);  // M2 and later
  out.neon_bf16 = feature("hw.optional.arm.FEAT_BF16", false);
#elif defined(_WIN32)
  constexpr DWORD kDotProduct = 43;  // PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE
  out.neon_dotprod = IsProcessorFeaturePresent(kDotProduct) != 0;
#endif
  return out;
}

#else

CpuFeatures detect() { return {}; }

#endif

}  // namespace

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = detect();
  return features;
}

}  // namespace polyrank
