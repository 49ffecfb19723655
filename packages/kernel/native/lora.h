// Products with the two factors of a lora. Floats and halves are multiplied by floats, without fused
// multiply-add; bytes by rounded inputs. All builds give the same bits.

/** Number of rows that share the factors that are read, which changes no bit. */
#ifdef LOOPS_AVX512
enum { LOW_RANK_ROWS = 4 };
#else
enum { LOW_RANK_ROWS = 1 };
#endif

INLINE Floats load_elements(const uint8_t *factor, size_t at, const LoraFormat format) {
  return format == LORA_FLOAT ? load((const float *)factor + at) : load_halves((const uint16_t *)factor + at);
}

/** Adds the products of inputs `[from, to)` up in four sums, one of every fourth input. */
INLINE void lower_floats(const LoraFactors *low, const Rows *x, int32_t row, int32_t from, int32_t to, float *out, int32_t outStride, const int R,
                         const LoraFormat format) {
  const float *inputs = x->floats + (size_t)row * (size_t)x->width;
  for (int32_t column = 0; column < low->rank; column += 16) {
    Floats sums[LOW_RANK_ROWS][4];
    for (int r = 0; r < R; r++)
      for (int j = 0; j < 4; j++) sums[r][j] = splat(0);
    int32_t k = from;
    for (; k + 4 <= to; k += 4)
      for (int j = 0; j < 4; j++) {
        Floats factor = load_elements(low->lower, (size_t)(k + j) * (size_t)low->rank + (size_t)column, format);
        for (int r = 0; r < R; r++) sums[r][j] = add(sums[r][j], mul(splat(inputs[(size_t)r * (size_t)x->width + (size_t)(k + j)]), factor));
      }
    for (; k < to; k++) {
      Floats factor = load_elements(low->lower, (size_t)k * (size_t)low->rank + (size_t)column, format);
      for (int r = 0; r < R; r++) sums[r][0] = add(sums[r][0], mul(splat(inputs[(size_t)r * (size_t)x->width + (size_t)k]), factor));
    }
    for (int r = 0; r < R; r++)
      store(out + (size_t)r * (size_t)outStride + column, add(add(sums[r][0], sums[r][1]), add(sums[r][2], sums[r][3])));
  }
}

/** Adds the integer sums of each group of rounded inputs, times the inputs' scale, to float sums. */
INLINE void lower_bytes(const LoraFactors *low, const Rows *x, int32_t row, int32_t from, int32_t to, float *out, int32_t outStride, const int R) {
  const size_t width = (size_t)x->width;
  for (int32_t column = 0; column < low->rank; column += 16) {
    Floats sums[LOW_RANK_ROWS];
    for (int r = 0; r < R; r++) sums[r] = splat(0);
    for (size_t i = (size_t)from; i < (size_t)to; i += GROUP) {
      Ints dots[LOW_RANK_ROWS];
      for (int r = 0; r < R; r++) dots[r] = splat_int(x->offsets[((size_t)(row + r) * width + i) / GROUP]);
      for (size_t k = i; k < i + GROUP; k += 4) {
        const uint8_t *factor = low->lower + k * (size_t)low->rank + 4 * (size_t)column;
        __builtin_prefetch(factor + AHEAD_BYTES);
        Quads quads = load_quads(factor);
        for (int r = 0; r < R; r++) dots[r] = dot(dots[r], quads, load_quad(x, (size_t)(row + r) * width + k));
      }
      for (int r = 0; r < R; r++)
        sums[r] = add(sums[r], mul(to_floats(dots[r]), splat(x->scales[((size_t)(row + r) * width + i) / GROUP])));
    }
    for (int r = 0; r < R; r++) store(out + (size_t)r * (size_t)outStride + column, sums[r]);
  }
}

/** Lowered inputs of some rows; rounded to `scale * value` in vectors of 16 for factors of bytes. */
typedef struct {
  float floats[LOW_RANK_ROWS][MOST_RANK];
  int8_t values[LOW_RANK_ROWS][MOST_RANK];
  int16_t wide[LOW_RANK_ROWS][MOST_RANK];
  float scales[LOW_RANK_ROWS][MOST_RANK / 16];
  int32_t offsets[LOW_RANK_ROWS][MOST_RANK / 16];
} LoweredRows;

/** Sums the parts of a row's lowered inputs, scales them, and rounds them for factors of bytes. */
INLINE void join_parts(const LoraFactors *low, const float *parts, Lowered shape, LoweredRows *rows, int r, const LoraFormat format) {
  for (int32_t column = 0; column < low->rank; column += 16) {
    Floats sum = load(parts + column);
    for (int32_t part = 1; part < shape.numParts; part++) sum = add(sum, load(parts + (size_t)part * (size_t)shape.partStride + column));
    Floats scaled = mul(sum, load(low->scales + column));
    store(rows->floats[r] + column, scaled);
    if (format != LORA_INT8) continue;
    // As in `round_row`.
    float largest = largest_lane(smaller(magnitude(scaled), splat(__builtin_inff())));
    Floats factor = splat(largest > 1e-30f ? 127.0f / largest : 0.0f);
    rows->offsets[r][column / 16] = offset_of(store_rounded(rows->values[r] + column, rows->wide[r] + column, mul(scaled, factor)));
    rows->scales[r][column / 16] = largest / 127.0f + (largest - largest);
  }
}

/** Adds the products of one vector of outputs up in two sums, one of even and one of odd ranks. */
INLINE void raise_floats(const LoraFactors *low, int32_t vector, const LoweredRows *rows, float *out, int32_t outStride, const int R,
                         const LoraFormat format) {
  Floats sums[LOW_RANK_ROWS][2];
  for (int r = 0; r < R; r++) sums[r][0] = sums[r][1] = splat(0);
  for (int32_t k = 0; k < low->rank; k += 2)
    for (int j = 0; j < 2; j++) {
      Floats factor = load_elements(low->raise, ((size_t)vector * (size_t)low->rank + (size_t)(k + j)) * 16, format);
      for (int r = 0; r < R; r++) sums[r][j] = add(sums[r][j], mul(splat(rows->floats[r][k + j]), factor));
    }
  for (int r = 0; r < R; r++) {
    float *at = out + (size_t)r * (size_t)outStride;
    store(at, add(load(at), add(sums[r][0], sums[r][1])));
  }
}

/** Adds the integer sums of each 16 ranks, times their scale, to one vector of outputs. */
INLINE void raise_bytes(const LoraFactors *low, int32_t vector, const LoweredRows *rows, float *out, int32_t outStride, const int R) {
  Rows lowered = {.values = (int8_t *)rows->values, .wide = (int16_t *)rows->wide};
  Floats sums[LOW_RANK_ROWS];
  for (int r = 0; r < R; r++) sums[r] = splat(0);
  for (int32_t column = 0; column < low->rank; column += 16) {
    Ints dots[LOW_RANK_ROWS];
    for (int r = 0; r < R; r++) dots[r] = splat_int(rows->offsets[r][column / 16]);
    for (int32_t k = column; k < column + 16; k += 4) {
      Quads quads = load_quads(low->raise + ((size_t)vector * (size_t)low->rank + (size_t)k) * 16);
      for (int r = 0; r < R; r++) dots[r] = dot(dots[r], quads, load_quad(&lowered, (size_t)r * MOST_RANK + (size_t)k));
    }
    for (int r = 0; r < R; r++) sums[r] = add(sums[r], mul(to_floats(dots[r]), splat(rows->scales[r][column / 16])));
  }
  for (int r = 0; r < R; r++) {
    float *at = out + (size_t)r * (size_t)outStride;
    store(at, add(load(at), sums[r]));
  }
}

INLINE void lower_as(const LoraFactors *low, const Rows *x, int32_t row, int32_t numRows, int32_t from, int32_t to, float *out, int32_t outStride,
                     const LoraFormat format) {
#define TILE(R) \
  do { \
    if (format == LORA_INT8) lower_bytes(low, x, row, from, to, out, outStride, R); \
    else lower_floats(low, x, row, from, to, out, outStride, R, format); \
    row += R; \
    out += (size_t)R * (size_t)outStride; \
  } while (0)
  const int32_t end = row + numRows;
  while (row + LOW_RANK_ROWS <= end) TILE(LOW_RANK_ROWS);
  while (row < end) TILE(1);
#undef TILE
}

INLINE void raise_as(const LoraFactors *low, int32_t vectorFrom, int32_t vectorTo, const float *parts, Lowered shape, int32_t numRows, float *out,
                     int32_t outStride, const LoraFormat format) {
  LoweredRows rows;
  for (int32_t row = 0; row < numRows;) {
    const int32_t count = row + LOW_RANK_ROWS <= numRows ? LOW_RANK_ROWS : 1;
    for (int32_t r = 0; r < count; r++) join_parts(low, parts + (size_t)(row + r) * (size_t)shape.rowStride, shape, &rows, r, format);
    for (int32_t vector = vectorFrom; vector < vectorTo; vector++) {
      float *at = out + (size_t)row * (size_t)outStride + 16 * (vector - vectorFrom);
#define TILE(R) (format == LORA_INT8 ? raise_bytes(low, vector, &rows, at, outStride, R) : raise_floats(low, vector, &rows, at, outStride, R, format))
      if (count == 1) TILE(1);
      else TILE(LOW_RANK_ROWS);
#undef TILE
    }
    row += count;
  }
}

static void lower(const LoraFactors *low, const Rows *x, int32_t row, int32_t numRows, int32_t from, int32_t to, float *out, int32_t outStride) {
  switch (low->format) {
    case LORA_FLOAT: lower_as(low, x, row, numRows, from, to, out, outStride, LORA_FLOAT); break;
    case LORA_HALF: lower_as(low, x, row, numRows, from, to, out, outStride, LORA_HALF); break;
    case LORA_INT8: lower_as(low, x, row, numRows, from, to, out, outStride, LORA_INT8); break;
  }
}

static void raise(const LoraFactors *low, int32_t vectorFrom, int32_t vectorTo, const float *parts, Lowered shape, int32_t numRows, float *out,
                  int32_t outStride) {
  switch (low->format) {
    case LORA_FLOAT: raise_as(low, vectorFrom, vectorTo, parts, shape, numRows, out, outStride, LORA_FLOAT); break;
    case LORA_HALF: raise_as(low, vectorFrom, vectorTo, parts, shape, numRows, out, outStride, LORA_HALF); break;
    case LORA_INT8: raise_as(low, vectorFrom, vectorTo, parts, shape, numRows, out, outStride, LORA_INT8); break;
  }
}
