// Recurrences of rows: convolutions over positions, and states of heads. Sums have a fixed order and no fused products.

/** Sums taps, the oldest first, and then applies SiLU or, of a convolution that is gated, multiplies by the gate. */
static void convolve(const Convolution *c) {
  for (int i = 0; i < c->size; i += 16) {
    const float *weights = c->weights + i;
    Floats sum = c->hasBias ? load(weights + (size_t)c->numTaps * c->stride) : splat(0);
    for (int tap = 0; tap < c->numTaps; tap++, weights += c->stride) {
      Floats input = load(c->inputs[tap] + i);
      if (c->factors[tap]) input = mul(input, load(c->factors[tap] + i));
      sum = add(sum, mul(load(weights), input));
    }
    store(c->out + i, c->gate ? mul(load(c->gate + i), sum) : activated(sum, ACTIVATION_SILU));
  }
}

/** Copies a query or key; in the delta rule it is divided by its length first, and then multiplied by `scale`. */
static void copy_unit(const Recurrence *r, const float *from, float scale, float *out) {
  Floats squares = splat(0);
  int i = 0;
  for (; i + 16 <= r->keySize; i += 16) squares = add(squares, mul(load(from + i), load(from + i)));
  float rest[16] = {0};
  for (int j = i; j < r->keySize; j++) rest[j - i] = from[j];
  squares = add(squares, mul(load(rest), load(rest)));
  float factor = r->isDelta ? 1.0f / __builtin_sqrtf(sum_lanes(squares) + 1e-6f) : 1.0f;
  for (int k = 0; k < r->keySize; k++) out[k] = from[k] * factor * scale;
}

/** Runs 16 columns of a state through one row. @param state - `[keySize][16]` @returns the outputs */
INLINE Floats recur_columns(const Recurrence *r, float *state, const float *query, const float *key, Floats value, Floats decay, Floats strength) {
  Floats sums[4] = {splat(0), splat(0), splat(0), splat(0)};
  if (r->isDelta) {
    for (int k = 0; k < r->keySize; k += 4)
      UNROLL for (int j = 0; j < 4; j++) sums[j] = add(sums[j], mul(splat(key[k + j]), load(state + 16 * (k + j))));
    value = sub(value, mul(decay, add(add(sums[0], sums[1]), add(sums[2], sums[3]))));
    UNROLL for (int j = 0; j < 4; j++) sums[j] = splat(0);
  }
  value = mul(value, strength);
  for (int k = 0; k < r->keySize; k += 4)
    UNROLL for (int j = 0; j < 4; j++) {
      Floats next = add(mul(decay, load(state + 16 * (k + j))), mul(splat(key[k + j]), value));
      store(state + 16 * (k + j), next);
      sums[j] = add(sums[j], mul(splat(query[k + j]), next));
    }
  return add(add(sums[0], sums[1]), add(sums[2], sums[3]));
}

/** Runs all columns through all rows, 16 columns after another: these stay in the nearest cache. */
static void recur(const Recurrence *r) {
  int padded = (r->valueSize + 15) / 16 * 16;
  float *queries = r->room, *keys = queries + (size_t)r->numRows * r->keySize, *values = keys + (size_t)r->numRows * r->keySize;
  float scale = r->isDelta ? 1.0f / __builtin_sqrtf((float)r->keySize) : 1.0f;
  for (int row = 0; row < r->numRows; row++) {
    copy_unit(r, r->query + (size_t)row * r->stride, scale, queries + (size_t)row * r->keySize);
    copy_unit(r, r->key + (size_t)row * r->stride, 1.0f, keys + (size_t)row * r->keySize);
    memset(values + (size_t)(row + 1) * padded - 16, 0, 16 * 4);
    memcpy(values + (size_t)row * padded, r->value + (size_t)row * r->stride, (size_t)r->valueSize * 4);
  }
  for (int column = 0; column < padded; column += 16)
    for (int row = 0; row < r->numRows; row++) {
      Floats value = load(values + (size_t)row * padded + column), skipped = mul(splat(r->skip), value);
      Floats out = recur_columns(r, r->state + (size_t)column * r->keySize, queries + (size_t)row * r->keySize, keys + (size_t)row * r->keySize, value,
                                 splat(r->decays[(size_t)row * r->gainsStride]), splat(r->strengths[(size_t)row * r->gainsStride]));
      store(r->outs + (size_t)row * padded + column, add(out, skipped));
    }
}
