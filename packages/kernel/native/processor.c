#include "processor.h"

#if defined(__x86_64__)
#include <cpuid.h>

static int has_bits(uint32_t value, uint32_t bits) { return (value & bits) == bits; }

/** Reads which registers the system saves for a thread: bits 1 and 2 are those of AVX, 5 to 7 those of AVX-512. */
static uint32_t kept_registers(void) {
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

int available_loops(const Loops *available[4]) {
  int count = 0;
  uint32_t a, b, c, d, b7 = 0, c7 = 0, a71 = 0;
  enum { FMA = 1 << 12, OSXSAVE = 1 << 27, AVX = 1 << 28, F16C = 1 << 29, AVX2 = 1 << 5, AVX_VNNI = 1 << 4, AVX512_VNNI = 1 << 11 };
  const uint32_t AVX512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; // F, DQ, BW, VL
  if (__get_cpuid(1, &a, &b, &c, &d) && has_bits(c, FMA | OSXSAVE | AVX | F16C) && has_bits(kept_registers(), 0x6)) {
    if (__get_cpuid_count(7, 0, &a, &b7, &c7, &d) && a >= 1) __get_cpuid_count(7, 1, &a71, &b, &c, &d);
    if (has_bits(b7, AVX512 | AVX2) && has_bits(c7, AVX512_VNNI) && has_bits(kept_registers(), 0xe6)) available[count++] = &loops_avx512;
    if (has_bits(b7, AVX2) && has_bits(a71, AVX_VNNI)) available[count++] = &loops_avx_vnni;
    if (has_bits(b7, AVX2)) available[count++] = &loops_avx2;
  }
  available[count++] = &loops_plain;
  return count;
}
#elif defined(__aarch64__)
#if defined(__linux__)
#include <sys/auxv.h>
static int has_dot_product(void) { return (getauxval(AT_HWCAP) & (1ul << 20)) != 0; }
#else
// All of Apple's own processors have the dot product.
static int has_dot_product(void) { return 1; }
#endif

int available_loops(const Loops *available[4]) {
  int count = 0;
  if (has_dot_product()) available[count++] = &loops_neon_dot;
  available[count++] = &loops_neon;
  available[count++] = &loops_plain;
  return count;
}
#else
int available_loops(const Loops *available[4]) {
  available[0] = &loops_wasm;
  available[1] = &loops_plain;
  return 2;
}
#endif
