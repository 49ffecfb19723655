// Numbers that hurt, for damaged files and impossible requests.

#pragma once
#include "processor.h"
#include "random.h"

// Sizes around those of groups, panels and pages, limits of what is allowed, signs, and as floats 1, infinity and NaN.
static const int32_t EDGES[] = {
    0,       1,       2,       3,       15,      16,        17,  31,   63,      64,      65,        127,        128,        4095,
    4096,    4098,    1 << 16, 1 << 20, 1 << 24, 1 << 26,   -1,  -2,   -64,     1 << 28, 1 << 30,   (1 << 20) + 1, (1 << 24) + 1,
    INT32_MAX, INT32_MAX - 63, INT32_MIN, INT32_MIN + 1, 0x3f800000, 0x7f800000, 0x7fc00000,
};
enum { NUM_EDGES = sizeof EDGES / sizeof EDGES[0] };

/** An edge, a number beside `value`, or any. */
static inline int32_t edge_near(Random *random, int32_t value) {
  if (one_in(random, 3)) return (int32_t)((uint32_t)value + (uint32_t)random_in(random, -2, 2));
  return one_in(random, 4) ? (int32_t)random_bits(random) : EDGES[random_in(random, 0, NUM_EDGES - 1)];
}

/** Loops of this machine. */
static inline const Loops *any_loops(Random *random) {
  const Loops *available[4];
  int count = available_loops(available);
  return available[random_in(random, 0, count - 1)];
}
