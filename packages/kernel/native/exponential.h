// Vector functions that all loops share: one exponential, one order of adding lanes.

/** Computes `exp(x)` within two units in the last place; x is clamped to [-64, 64], as smaller values do not matter. */
INLINE Floats exponential(Floats x) {
  x = larger(smaller(x, splat(64.0f)), splat(-64.0f));
  // Adding 1.5 * 2^23 rounds to a whole number, ties to even.
  Floats n = sub(add(mul(x, splat(1.44269504f)), splat(0x1.8p23f)), splat(0x1.8p23f));
  Floats r = sub(sub(x, mul(n, splat(0.693359375f))), mul(n, splat(-2.12194440e-4f)));
  Floats p = splat(1.9875691500e-4f);
  p = add(mul(p, r), splat(1.3981999507e-3f));
  p = add(mul(p, r), splat(8.3334519073e-3f));
  p = add(mul(p, r), splat(4.1665795894e-2f));
  p = add(mul(p, r), splat(1.6666665459e-1f));
  p = add(mul(p, r), splat(5.0000001201e-1f));
  p = add(add(mul(p, mul(r, r)), r), splat(1.0f));
  return mul(p, power_of_two(n));
}

/** Adds lanes in halves: 8 apart, then 4, 2 and 1. */
INLINE float sum_lanes(Floats x) {
  float lanes[16];
  store(lanes, x);
  for (int apart = 8; apart > 0; apart /= 2)
    for (int i = 0; i < apart; i++) lanes[i] += lanes[i + apart];
  return lanes[0];
}

#ifndef HAS_LARGEST_LANE
INLINE float largest_lane(Floats x) {
  float lanes[16];
  store(lanes, x);
  for (int apart = 8; apart > 0; apart /= 2)
    for (int i = 0; i < apart; i++) lanes[i] = lanes[i] > lanes[i + apart] ? lanes[i] : lanes[i + apart];
  return lanes[0];
}
#endif
