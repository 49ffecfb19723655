// The int8 tile of WebAssembly, whose engines have 16 registers of four lanes on x64: four outputs at a time for several rows, or 16
// outputs for one row, so that eight sums and what they are made of fit.

#ifdef USE_RELAXED
// The relaxed product is exact while one operand has 7 bits: weights come in two parts, `2 * (u >> 1) + (u & 1)`.
typedef struct { v128_t high, low; } PartSums;
typedef PartSums PartWeights;
typedef v128_t PartInputs;

INLINE PartWeights part_weights(const uint8_t *p) {
  v128_t bytes = wasm_v128_load(p);
  return (PartWeights){wasm_u8x16_shr(bytes, 1), wasm_v128_and(bytes, wasm_i8x16_splat(1))};
}
INLINE PartInputs part_inputs(const Rows *x, size_t at) { return wasm_v128_load32_splat(x->values + at); }
INLINE PartSums add_products(PartSums sums, PartWeights weights, PartInputs inputs) {
  sums.high = wasm_i32x4_relaxed_dot_i8x16_i7x16_add(inputs, weights.high, sums.high);
  sums.low = wasm_i32x4_relaxed_dot_i8x16_i7x16_add(inputs, weights.low, sums.low);
  return sums;
}
INLINE v128_t part_total(PartSums sums) { return wasm_i32x4_add(sums.low, wasm_i32x4_add(sums.high, sums.high)); }
#else
// Products of 16 bits: sums of inputs 0 and 1 and of inputs 2 and 3 stand side by side, of outputs 0 and 1, and of outputs 2 and 3.
typedef struct { v128_t first, second; } PartSums;
typedef PartSums PartWeights;
typedef v128_t PartInputs;

INLINE PartWeights part_weights(const uint8_t *p) {
  v128_t bytes = wasm_v128_load(p);
  return (PartWeights){wasm_u16x8_extend_low_u8x16(bytes), wasm_u16x8_extend_high_u8x16(bytes)};
}
INLINE PartInputs part_inputs(const Rows *x, size_t at) { return wasm_v128_load64_splat(x->wide + at); }
INLINE PartSums add_products(PartSums sums, PartWeights weights, PartInputs inputs) {
  sums.first = wasm_i32x4_add(sums.first, wasm_i32x4_dot_i16x8(weights.first, inputs));
  sums.second = wasm_i32x4_add(sums.second, wasm_i32x4_dot_i16x8(weights.second, inputs));
  return sums;
}
INLINE v128_t part_total(PartSums sums) {
  return wasm_i32x4_add(wasm_i32x4_shuffle(sums.first, sums.second, 0, 2, 4, 6), wasm_i32x4_shuffle(sums.first, sums.second, 1, 3, 5, 7));
}
#endif

/** Adds a group's sums, weights being stored as `weight + 128`, times the inputs' scale. */
INLINE v128_t add_group(v128_t sum, PartSums part, const Rows *x, size_t group) {
  v128_t whole = wasm_i32x4_sub(part_total(part), wasm_i32x4_splat(128 * x->sums[group]));
  return wasm_f32x4_add(sum, wasm_f32x4_mul(wasm_f32x4_convert_i32x4(whole), wasm_f32x4_splat(x->scales[group])));
}

#define NO_SUMS ((PartSums){wasm_i32x4_splat(0), wasm_i32x4_splat(0)})

/**
 * V vectors of outputs of one row: eight sums at a time, and the row's inputs for all of them. Groups come one after the other, so that
 * weights are read in the order in which they lie.
 */
__attribute__((noinline)) static void one_row(const Tensor *t, const uint8_t *weights, const Rows *x, int row, int V, float *sums) {
  const int width = x->width;
  for (int g = 0; g < t->numGroups; g++) {
    size_t first = (size_t)row * (size_t)width + (size_t)g * GROUP, group = (size_t)row * (size_t)(width / GROUP) + (size_t)g;
    for (int v = 0; v < V; v++) {
      const uint8_t *bytes = weights + (size_t)g * GROUP * PANEL + 64 * v;
      float *own = sums + 16 * v;
      PartSums p0 = NO_SUMS, p1 = NO_SUMS, p2 = NO_SUMS, p3 = NO_SUMS;
      for (int k = 0; k < GROUP; k += 4) {
        PartInputs inputs = part_inputs(x, first + (size_t)k);
        p0 = add_products(p0, part_weights(bytes + k * PANEL), inputs);
        p1 = add_products(p1, part_weights(bytes + k * PANEL + 16), inputs);
        p2 = add_products(p2, part_weights(bytes + k * PANEL + 32), inputs);
        p3 = add_products(p3, part_weights(bytes + k * PANEL + 48), inputs);
      }
      wasm_v128_store(own, add_group(wasm_v128_load(own), p0, x, group));
      wasm_v128_store(own + 4, add_group(wasm_v128_load(own + 4), p1, x, group));
      wasm_v128_store(own + 8, add_group(wasm_v128_load(own + 8), p2, x, group));
      wasm_v128_store(own + 12, add_group(wasm_v128_load(own + 12), p3, x, group));
    }
  }
}

/** Four outputs of four rows: eight sums, and weights that are widened once for all rows. `sums` is `[4][64]`. */
__attribute__((noinline)) static void four_rows(const Tensor *t, const uint8_t *weights, const Rows *x, int row, float *sums) {
  const int width = x->width, groups = width / GROUP;
  v128_t s0 = wasm_i32x4_splat(0), s1 = s0, s2 = s0, s3 = s0;
  size_t first = (size_t)row * (size_t)width, group = (size_t)row * (size_t)groups;
  for (int g = 0; g < t->numGroups; g++, first += GROUP, group++) {
    const uint8_t *bytes = weights + (size_t)g * GROUP * PANEL;
    PartSums p0 = NO_SUMS, p1 = NO_SUMS, p2 = NO_SUMS, p3 = NO_SUMS;
    for (int k = 0; k < GROUP; k += 4) {
      PartWeights part = part_weights(bytes + k * PANEL);
      p0 = add_products(p0, part, part_inputs(x, first + (size_t)k));
      p1 = add_products(p1, part, part_inputs(x, first + (size_t)(width + k)));
      p2 = add_products(p2, part, part_inputs(x, first + (size_t)(2 * width + k)));
      p3 = add_products(p3, part, part_inputs(x, first + (size_t)(3 * width + k)));
    }
    s0 = add_group(s0, p0, x, group);
    s1 = add_group(s1, p1, x, group + (size_t)groups);
    s2 = add_group(s2, p2, x, group + (size_t)(2 * groups));
    s3 = add_group(s3, p3, x, group + (size_t)(3 * groups));
  }
  wasm_v128_store(sums, s0);
  wasm_v128_store(sums + 64, s1);
  wasm_v128_store(sums + 128, s2);
  wasm_v128_store(sums + 192, s3);
}

INLINE void tile_int8(const Tensor *t, const uint8_t *weights, const Rows *x, int row, const int R, const int V, Floats sums[TILE_ROWS][4],
                      Next next) {
  (void)next;
  float lanes[4][64] = {{0}};
  if (R == 4)
    for (int p = 0; p < 4 * V; p++) four_rows(t, weights + 16 * p, x, row, lanes[0] + 4 * p);
  else
    for (int r = 0; r < R; r++) one_row(t, weights, x, row + r, V, lanes[r]);
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) sums[r][v] = load(lanes[r] + 16 * v);
}
