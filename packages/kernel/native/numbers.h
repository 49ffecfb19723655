// Number types by integer operations, for processors and builds without an instruction for them.

#pragma once
#include <stdint.h>
#include "memory.h"

/** Rounds to the nearest half, ties to even. The caller ensures magnitudes of at most 65504. */
static inline uint16_t half_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  uint32_t sign = (bits >> 16) & 0x8000, size = bits & 0x7fffffff;
  if (size < 0x38800000) {
    // Below 2^-14 halves are multiples of 2^-24: adding 1/2 leaves them in the last bits of the sum.
    float magnitude;
    memcpy(&magnitude, &size, 4);
    magnitude += 0.5f;
    uint32_t sum;
    memcpy(&sum, &magnitude, 4);
    return (uint16_t)(sign | (sum - 0x3f000000));
  }
  uint32_t odd = (size >> 13) & 1;
  return (uint16_t)(sign | ((size - 0x38000000 + 0xfff + odd) >> 13));
}

static inline float float_of(uint16_t half) {
  uint32_t bits = (uint32_t)(half & 0x7fff) << 13, sign = (uint32_t)(half & 0x8000) << 16;
  float x;
  memcpy(&x, &bits, 4);
  x *= 0x1p112f;
  memcpy(&bits, &x, 4);
  // The largest exponent is that of infinity and of NaN.
  if ((half & 0x7c00) == 0x7c00) bits |= 0x7f800000;
  bits |= sign;
  memcpy(&x, &bits, 4);
  return x;
}

/** Returns the float32 whose upper bits these are. */
static inline float bfloat_of(uint16_t upper) {
  uint32_t bits = (uint32_t)upper << 16;
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

/** Returns `2^(exponent - 128)`. */
static inline float power_of(uint8_t exponent) {
  uint32_t bits = exponent < 2 ? 0x200000u << exponent : (uint32_t)(exponent - 1) << 23;
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
