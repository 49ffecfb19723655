// Work on each row by itself: residual sums, norms, rounding, and the gate of an FFN.

static void add_scaled(float *x, const float *y, float scale, int32_t size) {
  for (int i = 0; i < size; i += 16) store(x + i, add(load(x + i), mul(load(y + i), splat(scale))));
}

/** Norms as LayerNorm does. The padding's own squares of the mean are left out of the variance. */
static void norm_centered(const float *x, Norm norm, float epsilon, int32_t size, int32_t padded, float *out) {
  Floats sum = splat(0), squares = splat(0);
  for (int i = 0; i < padded; i += 16) sum = add(sum, load(x + i));
  float mean = sum_lanes(sum) / (float)size;
  for (int i = 0; i < padded; i += 16) {
    Floats value = sub(load(x + i), splat(mean));
    squares = add(squares, mul(value, value));
  }
  float variance = (sum_lanes(squares) - (float)(padded - size) * (mean * mean)) / (float)size;
  float factor = 1.0f / __builtin_sqrtf((variance > 0 ? variance : 0) + epsilon);
  for (int i = 0; i < padded; i += 16) {
    Floats value = mul(sub(load(x + i), splat(mean)), splat(factor));
    store(out + i, add(mul(value, load(norm.scales + i)), load(norm.biases + i)));
  }
}

static void norm(const float *x, Norm norm, float epsilon, int32_t size, int32_t padded, float *out) {
  if (norm.biases) {
    norm_centered(x, norm, epsilon, size, padded, out);
    return;
  }
  Floats squares = splat(0);
  for (int i = 0; i < padded; i += 16) {
    Floats value = load(x + i);
    squares = add(squares, mul(value, value));
  }
  float factor = 1.0f / __builtin_sqrtf(sum_lanes(squares) / (float)size + epsilon);
  for (int i = 0; i < padded; i += 16) store(out + i, mul(mul(load(x + i), splat(factor)), load(norm.scales + i)));
}

/** Compensates, for inputs with this sum, that weights are stored as `weight + 128`, if products multiply them so. */
INLINE int32_t offset_of(int32_t sum) { return QUADS_ARE_UNSIGNED ? -128 * sum : 0; }

/** Returns the larger magnitudes of a group's halves. A NaN counts as infinite, which no maximum loses. */
INLINE Floats group_magnitudes(const float *floats) {
  return larger(smaller(magnitude(load(floats)), splat(__builtin_inff())), smaller(magnitude(load(floats + 16)), splat(__builtin_inff())));
}

#ifdef HAS_ROUNDED_GROUPS
/** Does what `round_row` does for N groups, 2 or 4, lane by lane of one vector where a group alone takes reductions. */
INLINE void round_groups(const Rows *rows, const float *floats, int8_t *values, size_t group, const int N) {
  Floats most[4];
  for (int g = 0; g < 4; g++) most[g] = group_magnitudes(floats + g % N * GROUP);
  float factors[4];
  store_factors(largest_of_four(most), factors, rows->scales + group, N);
  for (int g = 0; g < N; g++)
    for (int half = 0; half < GROUP; half += 16) store_bytes_of(values + g * GROUP + half, mul(load(floats + g * GROUP + half), splat(factors[g])));
  store_sums(values, rows->halfSums + group, rows->sums + group, rows->offsets + group, N);
}
#endif

/** Rounds groups so that the largest magnitude becomes 127; the scale of a group that is not finite is NaN. */
static void round_row(const Rows *rows, int32_t row, int32_t from, int32_t to) {
  const float *floats = rows->floats + (size_t)row * rows->width;
  int8_t *values = rows->values + (size_t)row * rows->width;
  int16_t *wide = rows->wide + (size_t)row * rows->width;
  size_t firstGroup = (size_t)row * (rows->width / GROUP);
  int i = from;
#ifdef HAS_ROUNDED_GROUPS
  for (; i + 4 * GROUP <= to; i += 4 * GROUP) round_groups(rows, floats + i, values + i, firstGroup + (size_t)(i / GROUP), 4);
  if (i + 2 * GROUP <= to) {
    round_groups(rows, floats + i, values + i, firstGroup + (size_t)(i / GROUP), 2);
    i += 2 * GROUP;
  }
#endif
  for (; i < to; i += GROUP) {
    Floats first = load(floats + i), second = load(floats + i + 16);
    float largest = largest_lane(group_magnitudes(floats + i));
    // Below this limit the quotient would not be finite; such inputs count as 0.
    Floats factor = splat(largest > 1e-30f ? 127.0f / largest : 0.0f);
    int32_t firstSum = store_rounded(values + i, wide + i, mul(first, factor));
    int32_t secondSum = store_rounded(values + i + 16, wide + i + 16, mul(second, factor));
    size_t group = firstGroup + (size_t)(i / GROUP);
    // An infinite group becomes NaN, so that it shows in every output.
    rows->scales[group] = largest / 127.0f + (largest - largest);
    rows->halfSums[group] = firstSum;
    rows->sums[group] = firstSum + secondSum;
    rows->offsets[group] = offset_of(rows->sums[group]);
  }
}

/**
 * Computes `x * P(X <= x)`, X normal, within 2e-7 + 2e-7 |x|: 1 - P as `exp(-x^2 / 2)` times a polynomial of
 * `1 / (1 + p |x|)` (Abramowitz and Stegun, 7.1.26).
 */
INLINE Floats gelu(Floats x) {
  Floats size = magnitude(x), t = quotient(splat(1), add(splat(1), mul(splat(0.3275911f * 0.70710678f), size)));
  Floats p = splat(1.061405429f);
  p = add(mul(p, t), splat(-1.453152027f));
  p = add(mul(p, t), splat(1.421413741f));
  p = add(mul(p, t), splat(-0.284496736f));
  p = mul(add(mul(p, t), splat(0.254829592f)), t);
  Floats tail = mul(mul(splat(0.5f), size), mul(p, exponential(mul(splat(-0.5f), mul(x, x)))));
  return sub(larger(x, splat(0)), tail);
}

INLINE Floats activated(Floats x, Activation activation) {
  if (activation == ACTIVATION_GELU) return gelu(x);
  if (activation == ACTIVATION_SILU) return quotient(x, add(splat(1), exponential(sub(splat(0), x))));
  // 0.5 x (1 + tanh u) = x - x / (1 + exp(2 u)), u = sqrt(2 / pi) (x + 0.044715 x^3).
  Floats u = mul(splat(0.7978845608f), add(x, mul(splat(0.044715f), mul(x, mul(x, x)))));
  return sub(x, quotient(x, add(splat(1), exponential(add(u, u)))));
}

/** Computes `cap * tanh(x / cap)`, NaN where x is no number. */
INLINE Floats capped(Floats x, Floats cap) {
  Floats power = exponential(quotient(add(x, x), cap));
  return add(sub(cap, quotient(add(cap, cap), add(splat(1), power))), sub(x, x));
}

static void cap_values(float *x, int32_t size, float cap) {
  for (int i = 0; i < size; i += 16) store(x + i, capped(load(x + i), splat(cap)));
}

INLINE Floats clamped_product(Floats gate, Floats up) {
  Floats low = smaller(gate, splat(7)), factor = add(larger(smaller(up, splat(7)), splat(-7)), splat(1));
  Floats value = quotient(low, add(splat(1), exponential(mul(low, splat(-1.702f)))));
  // What is no number is no bound either.
  return add(mul(factor, value), add(sub(gate, gate), sub(up, up)));
}

static void gate(const float *gates, const float *up, float *out, int32_t size, Activation activation) {
  for (int i = 0; i < size; i += 16) {
    if (activation == ACTIVATION_CLAMPED && gates) {
      store(out + i, clamped_product(load(gates + i), load(up + i)));
      continue;
    }
    Floats value = gates ? mul(activated(load(gates + i), activation), load(up + i)) : activated(load(up + i), activation);
    store(out + i, value);
  }
}

static void summarize(const float *logits, int32_t numLogits, float *largest, float *sums) {
  for (int from = 0; from < numLogits; from += LOGIT_BLOCK) {
    Floats most = load(logits + from);
    for (int i = 16; i < LOGIT_BLOCK; i += 16) most = larger(most, load(logits + from + i));
    float top = largest_lane(most);
    Floats sum = splat(0), unsound = splat(0);
    for (int i = 0; i < LOGIT_BLOCK; i += 16) {
      Floats x = load(logits + from + i);
      sum = add(sum, exponential(sub(x, splat(top))));
      unsound = add(unsound, sub(x, x));
    }
    // Neither a comparison nor the exponential keeps a NaN.
    float wrong = sum_lanes(unsound);
    *largest++ = top + wrong;
    *sums++ = sum_lanes(sum) + wrong;
  }
}

static void exponentials(const float *x, float from, float *out, int32_t size) {
  for (int i = 0; i < size; i += 16) store(out + i, exponential(sub(load(x + i), splat(from))));
}
