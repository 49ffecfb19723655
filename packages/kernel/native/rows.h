// Work on each row by itself: residual sums, norms, rounding, and the gate of an FFN.

static void add_scaled(float *x, const float *y, float scale, int32_t size) {
  for (int i = 0; i < size; i += 16) store(x + i, add(load(x + i), mul(load(y + i), splat(scale))));
}

static void norm(const float *x, const float *weight, float epsilon, int32_t size, int32_t padded, float *out) {
  Floats squares = splat(0);
  for (int i = 0; i < padded; i += 16) {
    Floats value = load(x + i);
    squares = add(squares, mul(value, value));
  }
  float factor = 1.0f / __builtin_sqrtf(sum_lanes(squares) / (float)size + epsilon);
  for (int i = 0; i < padded; i += 16) store(out + i, mul(mul(load(x + i), splat(factor)), load(weight + i)));
}

/** Compensates, for inputs with this sum, that weights are stored as `weight + 128`, if products multiply them so. */
INLINE int32_t offset_of(int32_t sum) { return QUADS_ARE_UNSIGNED ? -128 * sum : 0; }

/** Rounds groups so that the largest magnitude becomes 127; the scale of a group that is not finite is NaN. */
static void round_row(const Rows *rows, int32_t row, int32_t from, int32_t to) {
  const float *floats = rows->floats + (size_t)row * rows->width;
  int8_t *values = rows->values + (size_t)row * rows->width;
  int16_t *wide = rows->wide + (size_t)row * rows->width;
  size_t firstGroup = (size_t)row * (rows->width / GROUP);
  for (int i = from; i < to; i += GROUP) {
    Floats first = load(floats + i), second = load(floats + i + 16);
    // A NaN counts as infinite, which no maximum loses.
    Floats most = larger(smaller(magnitude(first), splat(__builtin_inff())), smaller(magnitude(second), splat(__builtin_inff())));
    float largest = largest_lane(most);
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

INLINE Floats activated(Floats x, Activation activation) {
  if (activation == ACTIVATION_SILU) return quotient(x, add(splat(1), exponential(sub(splat(0), x))));
  // 0.5 x (1 + tanh u) = x - x / (1 + exp(2 u)), u = sqrt(2 / pi) (x + 0.044715 x^3).
  Floats u = mul(splat(0.7978845608f), add(x, mul(splat(0.044715f), mul(x, mul(x, x)))));
  return sub(x, quotient(x, add(splat(1), exponential(add(u, u)))));
}

static void gate(const float *gates, const float *up, float *out, int32_t size, Activation activation) {
  for (int i = 0; i < size; i += 16) {
    Floats value = gates ? mul(activated(load(gates + i), activation), load(up + i)) : activated(load(up + i), activation);
    store(out + i, value);
  }
}

static void summarize(const float *logits, int32_t numLogits, float *largest, float *sums) {
  for (int from = 0; from < numLogits; from += LOGIT_BLOCK) {
    Floats most = load(logits + from);
    for (int i = 16; i < LOGIT_BLOCK; i += 16) most = larger(most, load(logits + from + i));
    float top = largest_lane(most);
    Floats sum = splat(0);
    for (int i = 0; i < LOGIT_BLOCK; i += 16) sum = add(sum, exponential(sub(load(logits + from + i), splat(top))));
    *largest++ = top;
    *sums++ = sum_lanes(sum);
  }
}

static void exponentials(const float *x, float from, float *out, int32_t size) {
  for (int i = 0; i < size; i += 16) store(out + i, exponential(sub(load(x + i), splat(from))));
}
