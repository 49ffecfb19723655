// The int8 tile of WebAssembly. Engines have 16 registers of four lanes on x64, so four rows keep their sums in eight
// vectors. They have no prefetch, so weights are read in the order in which they are stored.

typedef struct { v128_t first, second; } Pair;

#ifdef USE_RELAXED
// A vector holds four inputs of each of four outputs.
enum { PAIR_OUTPUTS = 8 };
INLINE Pair pair_of(const uint8_t *p) { return (Pair){wasm_v128_load(p), wasm_v128_load(p + 16)}; }
INLINE v128_t pair_inputs(const Rows *x, size_t at) { return wasm_v128_load32_splat(x->values + at); }
INLINE v128_t add_products(v128_t sum, v128_t weights, v128_t inputs) { return wasm_i32x4_relaxed_dot_i8x16_i7x16_add(inputs, weights, sum); }
INLINE Pair first_sums(v128_t offset) { return (Pair){offset, offset}; }
INLINE void add_pair(float *sums, Pair pair, v128_t scale) {
  wasm_v128_store(sums, wasm_f32x4_add(wasm_v128_load(sums), wasm_f32x4_mul(wasm_f32x4_convert_i32x4(pair.first), scale)));
  wasm_v128_store(sums + 4, wasm_f32x4_add(wasm_v128_load(sums + 4), wasm_f32x4_mul(wasm_f32x4_convert_i32x4(pair.second), scale)));
}
#else
// A vector holds four inputs of each of two outputs, in 16 bits. Products of inputs 0 and 1 share a sum, those of
// inputs 2 and 3 the sum beside it.
enum { PAIR_OUTPUTS = 4 };
INLINE Pair pair_of(const uint8_t *p) { return (Pair){wasm_u16x8_load8x8(p), wasm_u16x8_load8x8(p + 8)}; }
INLINE v128_t pair_inputs(const Rows *x, size_t at) { return wasm_v128_load64_splat(x->wide + at); }
INLINE v128_t add_products(v128_t sum, v128_t weights, v128_t inputs) { return wasm_i32x4_add(sum, wasm_i32x4_dot_i16x8(weights, inputs)); }
/** Starts both sums of an output with half of its offset, which is even. */
INLINE Pair first_sums(v128_t offset) {
  v128_t half = wasm_i32x4_shr(offset, 1);
  return (Pair){half, half};
}
INLINE void add_pair(float *sums, Pair pair, v128_t scale) {
  v128_t even = wasm_i32x4_shuffle(pair.first, pair.second, 0, 2, 4, 6), odd = wasm_i32x4_shuffle(pair.first, pair.second, 1, 3, 5, 7);
  v128_t dots = wasm_f32x4_convert_i32x4(wasm_i32x4_add(even, odd));
  wasm_v128_store(sums, wasm_f32x4_add(wasm_v128_load(sums), wasm_f32x4_mul(dots, scale)));
}
#endif

/** Computes outputs `[R][numPairs * PAIR_OUTPUTS]`, N pairs at a time, one group after the other. */
INLINE void pairs_int8(const Tensor *t, const uint8_t *weights, const Rows *x, int row, const int R, const int N, int numPairs,
                       float sums[4][PANEL]) {
  const size_t width = (size_t)x->width, groups = width / GROUP;
  for (int g = 0; g < t->numGroups; g++) {
    size_t first = (size_t)row * width + (size_t)g * GROUP, group = (size_t)row * groups + (size_t)g;
    for (int from = 0; from < numPairs; from += N) {
      const uint8_t *bytes = weights + (size_t)g * GROUP * PANEL + 4 * PAIR_OUTPUTS * from;
      Pair dots[4][64 / PAIR_OUTPUTS];
      for (int r = 0; r < R; r++)
        for (int n = 0; n < N; n++) dots[r][n] = first_sums(wasm_v128_load32_splat(x->offsets + group + (size_t)r * groups));
      // Engines load everything that a long body reads first, for which there are not enough registers.
#pragma clang loop unroll(disable)
      for (int k = 0; k < GROUP; k += 4)
        for (int n = 0; n < N; n++) {
          Pair pair = pair_of(bytes + k * PANEL + 4 * PAIR_OUTPUTS * n);
          for (int r = 0; r < R; r++) {
            v128_t inputs = pair_inputs(x, first + (size_t)r * width + (size_t)k);
            dots[r][n].first = add_products(dots[r][n].first, pair.first, inputs);
            dots[r][n].second = add_products(dots[r][n].second, pair.second, inputs);
          }
        }
      for (int r = 0; r < R; r++)
        for (int n = 0; n < N; n++)
          add_pair(sums[r] + PAIR_OUTPUTS * (from + n), dots[r][n], wasm_v128_load32_splat(x->scales + group + (size_t)r * groups));
    }
  }
}

// Separate functions, because engines spill the sums of loops within a long function.
__attribute__((noinline)) static void four_rows(const Tensor *t, const uint8_t *weights, const Rows *x, int row, int V, float sums[4][PANEL]) {
  pairs_int8(t, weights, x, row, 4, 1, 16 * V / PAIR_OUTPUTS, sums);
}

__attribute__((noinline)) static void one_row_panel(const Tensor *t, const uint8_t *weights, const Rows *x, int row, float sums[4][PANEL]) {
  pairs_int8(t, weights, x, row, 1, PANEL / PAIR_OUTPUTS, PANEL / PAIR_OUTPUTS, sums);
}

__attribute__((noinline)) static void one_row_vector(const Tensor *t, const uint8_t *weights, const Rows *x, int row, float sums[4][PANEL]) {
  pairs_int8(t, weights, x, row, 1, 16 / PAIR_OUTPUTS, 16 / PAIR_OUTPUTS, sums);
}

INLINE void tile_int8(const Tensor *t, const uint8_t *weights, const Rows *x, int row, const int R, const int V, Floats sums[TILE_ROWS][4]) {
  float lanes[4][PANEL] = {{0}};
  if (R == 4) four_rows(t, weights, x, row, V, lanes);
  for (int r = 0; r < R % 4; r++) (V == 4 ? one_row_panel : one_row_vector)(t, weights, x, row + r, lanes + r);
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) sums[r][v] = load(lanes[r] + 16 * v);
}
