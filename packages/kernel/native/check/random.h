// Random numbers that are the same on every machine.

#pragma once
#include <stdint.h>

typedef struct {
  uint64_t state;
} Random;

/** splitmix64. */
static inline uint64_t random_bits(Random *random) {
  uint64_t x = random->state += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

/** A whole number in `[from, to]`. */
static inline int32_t random_in(Random *random, int32_t from, int32_t to) {
  return (int32_t)(from + (int64_t)(random_bits(random) % (uint64_t)((int64_t)to - from + 1)));
}

static inline int one_in(Random *random, int32_t count) { return random_in(random, 1, count) == 1; }

/** A float in `[-size, size)`. */
static inline float random_float(Random *random, float size) {
  return (float)((int32_t)(random_bits(random) >> 40) - (1 << 23)) * 0x1p-23f * size;
}
