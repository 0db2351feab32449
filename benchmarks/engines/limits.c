// What the arithmetic units give from registers alone: int8 (VNNI, AMX) and float32 (FMA).
// Prints one line a unit: name, operations (2 a multiply-add) a second in billions.
#include <immintrin.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MAX_THREADS 64
static double seconds;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#define KEEP(a) __asm__ volatile("" : "+v"(a))

// Each loop counts its rounds until the time is up and returns operations done.
#define REGISTERS(NAME, TARGET, TYPE, ZERO, STEP, OPS)                                     \
  __attribute__((target(TARGET))) static double NAME(void) {                              \
    TYPE x = ZERO;                                                                        \
    KEEP(x);                                                                              \
    TYPE a = x, b = x, c = x, d = x, e = x, f = x, g = x, h = x, i = x, j = x;  \
    double end = now() + seconds, rounds = 0;                                             \
    while (now() < end) {                                                                 \
      for (int n = 0; n < 100000; ++n) {                                                  \
        STEP(a); STEP(b); STEP(c); STEP(d); STEP(e);                                      \
        STEP(f); STEP(g); STEP(h); STEP(i); STEP(j);                                      \
        KEEP(a); KEEP(b); KEEP(c); KEEP(d); KEEP(e);                                      \
        KEEP(f); KEEP(g); KEEP(h); KEEP(i); KEEP(j);                                      \
      }                                                                                   \
      rounds += 100000;                                                                   \
    }                                                                                     \
    return rounds * 10 * (OPS);                                                           \
  }
#define VNNI(r) r = _mm512_dpbusd_epi32(r, x, x)
#define FMA(r) r = _mm512_fmadd_ps(x, x, r)
#define BF16(r) r = _mm512_dpbf16_ps(r, (__m512bh)x, (__m512bh)x)
#define SUMS16(r) r = _mm512_add_epi16(r, _mm512_maddubs_epi16(r, x))
#define SUMS16_256(r) r = _mm256_add_epi16(r, _mm256_maddubs_epi16(r, x))
#define FMA256(r) r = _mm256_fmadd_ps(x, x, r)
REGISTERS(vnni, "avx512f,avx512vnni", __m512i, _mm512_setzero_si512(), VNNI, 64 * 2)
REGISTERS(fma512, "avx512f", __m512, _mm512_setzero_ps(), FMA, 16 * 2)
REGISTERS(fma256, "avx2,fma", __m256, _mm256_setzero_ps(), FMA256, 8 * 2)

REGISTERS(bf16, "avx512f,avx512bf16", __m512, _mm512_setzero_ps(), BF16, 32 * 2)
REGISTERS(sums16, "avx512f,avx512bw", __m512i, _mm512_setzero_si512(), SUMS16, 64 * 2)
REGISTERS(sums16_256, "avx2", __m256i, _mm256_setzero_si256(), SUMS16_256, 32 * 2)

#ifdef HAS_AMX
__attribute__((target("amx-tile,amx-int8"))) static double amx(void) {
  struct { uint8_t palette, start, pad[14]; uint16_t columns[16]; uint8_t rows[16]; } tiles;
  memset(&tiles, 0, sizeof tiles);
  tiles.palette = 1;
  for (int i = 0; i < 8; ++i) { tiles.columns[i] = 64; tiles.rows[i] = 16; }
  _tile_loadconfig(&tiles);
  _tile_zero(4); _tile_zero(5); _tile_zero(6); _tile_zero(7);
  double end = now() + seconds, rounds = 0;
  while (now() < end) {
    for (int n = 0; n < 10000; ++n) {
      _tile_dpbusd(0, 4, 6); _tile_dpbusd(1, 4, 7);
      _tile_dpbusd(2, 5, 6); _tile_dpbusd(3, 5, 7);
    }
    rounds += 10000;
  }
  _tile_release();
  return rounds * 4 * 16 * 16 * 64 * 2;
}
static int has_amx(void) { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }
#endif

static double (*loop)(void);
static void *one(void *out) {
  *(double *)out = loop();
  return 0;
}

static void measure(const char *name, double (*what)(void), int threads) {
  pthread_t all[MAX_THREADS];
  double done[MAX_THREADS], sum = 0;
  loop = what;
  double start = now();
  for (int i = 0; i < threads; ++i) pthread_create(&all[i], 0, one, &done[i]);
  for (int i = 0; i < threads; ++i) { pthread_join(all[i], 0); sum += done[i]; }
  printf("%s %.1f\n", name, sum / (now() - start) / 1e9);
}

int main(int count, char **values) {
  int threads = count > 1 ? atoi(values[1]) : 1;
  seconds = count > 2 ? atof(values[2]) : 0.5;
  if (threads < 1 || threads > MAX_THREADS) return 2;
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) measure("float32_fma", fma512, threads);
  else if (__builtin_cpu_supports("fma")) measure("float32_fma", fma256, threads);
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("fma")) {
    measure("float32_fma256", fma256, threads);
  }
  if (__builtin_cpu_supports("avx512bf16")) measure("bf16", bf16, threads);
  if (__builtin_cpu_supports("avx512bw")) measure("sums16", sums16, threads);
  if (__builtin_cpu_supports("avx2")) measure("sums16_256", sums16_256, threads);
  if (__builtin_cpu_supports("avx512vnni")) measure("int8_vnni", vnni, threads);
#ifdef HAS_AMX
  if (has_amx()) measure("int8_amx", amx, threads);
#endif
  return 0;
}
