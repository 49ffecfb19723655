// Products with the two factors of a low-rank change. Elements become floats as they are read; no product is fused, so
// all builds give the same bits.

/** Number of rows that share the elements that are read, which changes no bit. */
#ifdef LOOPS_AVX512
enum { LOW_RANK_ROWS = 4 };
#else
enum { LOW_RANK_ROWS = 1 };
#endif

/** Number of elements in a line of 64 bytes. */
INLINE int32_t line_elements(const ChangeFormat format) { return format == CHANGE_FLOAT ? 16 : format == CHANGE_HALF ? 32 : 64; }

/** Returns the address of an element. */
INLINE const uint8_t *element_at(const uint8_t *factor, size_t at, const ChangeFormat format) {
  return factor + at * (format == CHANGE_FLOAT ? 4 : format == CHANGE_HALF ? 2 : 1);
}

/** Prefetches the lines that hold `count` elements. */
INLINE void prefetch_elements(const uint8_t *ahead, size_t at, int32_t count, const ChangeFormat format) {
  for (int32_t i = 0; i < count; i += line_elements(format)) __builtin_prefetch(element_at(ahead, at + (size_t)i, format));
}

INLINE Floats load_elements(const uint8_t *factor, size_t at, const ChangeFormat format) {
  if (format == CHANGE_FLOAT) return load((const float *)factor + at);
  if (format == CHANGE_HALF) return load_halves((const uint16_t *)factor + at);
  return load_bytes((const int8_t *)factor + at);
}

/** Adds the products of inputs `[from, to)` up in four sums, one of every fourth input. */
INLINE void lower_tile(const LowRank *low, const float *inputs, int32_t width, int32_t from, int32_t to, float *out, int32_t outStride,
                       const int R, const ChangeFormat format, const uint8_t *ahead) {
  for (int32_t column = 0; column < low->rank; column += 16) {
    Floats sums[LOW_RANK_ROWS][4];
    for (int r = 0; r < R; r++)
      for (int j = 0; j < 4; j++) sums[r][j] = splat(0);
    int32_t k = from;
    for (; k + 4 <= to; k += 4) {
      if (column == 0) prefetch_elements(ahead, (size_t)k * (size_t)low->rank, 4 * low->rank, format);
      for (int j = 0; j < 4; j++) {
        Floats factor = load_elements(low->lower, (size_t)(k + j) * (size_t)low->rank + (size_t)column, format);
        for (int r = 0; r < R; r++) sums[r][j] = add(sums[r][j], mul(splat(inputs[(size_t)r * (size_t)width + (size_t)(k + j)]), factor));
      }
    }
    for (; k < to; k++) {
      Floats factor = load_elements(low->lower, (size_t)k * (size_t)low->rank + (size_t)column, format);
      for (int r = 0; r < R; r++) sums[r][0] = add(sums[r][0], mul(splat(inputs[(size_t)r * (size_t)width + (size_t)k]), factor));
    }
    for (int r = 0; r < R; r++)
      store(out + (size_t)r * (size_t)outStride + column, add(add(sums[r][0], sums[r][1]), add(sums[r][2], sums[r][3])));
  }
}

/** Adds the products of one vector of outputs up in two sums, one of even and one of odd ranks. */
INLINE void raise_tile(const LowRank *low, int32_t vector, const float lowered[][MOST_RANK], float *out, int32_t outStride, const int R,
                       const ChangeFormat format, const uint8_t *ahead) {
  prefetch_elements(ahead, (size_t)vector * (size_t)low->rank * 16, low->rank * 16, format);
  Floats sums[LOW_RANK_ROWS][2];
  for (int r = 0; r < R; r++) sums[r][0] = sums[r][1] = splat(0);
  for (int32_t k = 0; k < low->rank; k += 2)
    for (int j = 0; j < 2; j++) {
      Floats factor = load_elements(low->raise, ((size_t)vector * (size_t)low->rank + (size_t)(k + j)) * 16, format);
      for (int r = 0; r < R; r++) sums[r][j] = add(sums[r][j], mul(splat(lowered[r][k + j]), factor));
    }
  for (int r = 0; r < R; r++) {
    float *at = out + (size_t)r * (size_t)outStride;
    store(at, add(load(at), add(sums[r][0], sums[r][1])));
  }
}

/** Sums the parts of a row's lowered inputs, and scales them. */
INLINE void join_parts(const LowRank *low, const float *parts, Lowered shape, float *out) {
  for (int32_t column = 0; column < low->rank; column += 16) {
    Floats sum = load(parts + column);
    for (int32_t part = 1; part < shape.numParts; part++) sum = add(sum, load(parts + (size_t)part * (size_t)shape.partStride + column));
    store(out + column, mul(sum, load(low->scales + column)));
  }
}

INLINE void lower_as(const LowRank *low, const float *inputs, int32_t width, int32_t numRows, int32_t from, int32_t to, float *out,
                     int32_t outStride, const ChangeFormat format, const uint8_t *ahead) {
  int32_t row = 0;
#define TILE(R) \
  lower_tile(low, inputs + (size_t)row * (size_t)width, width, from, to, out + (size_t)row * (size_t)outStride, outStride, R, format, ahead)
  for (; row + LOW_RANK_ROWS <= numRows; row += LOW_RANK_ROWS) TILE(LOW_RANK_ROWS);
  for (; row < numRows; row++) TILE(1);
#undef TILE
}

INLINE void raise_as(const LowRank *low, int32_t vectorFrom, int32_t vectorTo, const float *parts, Lowered shape, int32_t numRows, float *out,
                     int32_t outStride, const ChangeFormat format, const uint8_t *ahead) {
  float lowered[LOW_RANK_ROWS][MOST_RANK];
  for (int32_t row = 0; row < numRows;) {
    int32_t count = row + LOW_RANK_ROWS <= numRows ? LOW_RANK_ROWS : 1;
    for (int32_t r = 0; r < count; r++) join_parts(low, parts + (size_t)(row + r) * (size_t)shape.rowStride, shape, lowered[r]);
    for (int32_t vector = vectorFrom; vector < vectorTo; vector++) {
      float *at = out + (size_t)row * (size_t)outStride + 16 * (vector - vectorFrom);
      if (count == 1) raise_tile(low, vector, lowered, at, outStride, 1, format, ahead);
      else raise_tile(low, vector, lowered, at, outStride, LOW_RANK_ROWS, format, ahead);
    }
    row += count;
  }
}

static void lower(const LowRank *low, const float *inputs, int32_t width, int32_t numRows, int32_t from, int32_t to, float *out,
                  int32_t outStride, const uint8_t *next) {
  const uint8_t *ahead = next ? next : low->lower + AHEAD_BYTES;
  switch (low->format) {
    case CHANGE_FLOAT: lower_as(low, inputs, width, numRows, from, to, out, outStride, CHANGE_FLOAT, ahead); break;
    case CHANGE_HALF: lower_as(low, inputs, width, numRows, from, to, out, outStride, CHANGE_HALF, ahead); break;
    case CHANGE_INT8: lower_as(low, inputs, width, numRows, from, to, out, outStride, CHANGE_INT8, ahead); break;
  }
}

static void raise(const LowRank *low, int32_t vectorFrom, int32_t vectorTo, const float *parts, Lowered shape, int32_t numRows, float *out,
                  int32_t outStride, const uint8_t *next) {
  const uint8_t *ahead = next ? next : low->raise + AHEAD_BYTES;
  switch (low->format) {
    case CHANGE_FLOAT: raise_as(low, vectorFrom, vectorTo, parts, shape, numRows, out, outStride, CHANGE_FLOAT, ahead); break;
    case CHANGE_HALF: raise_as(low, vectorFrom, vectorTo, parts, shape, numRows, out, outStride, CHANGE_HALF, ahead); break;
    case CHANGE_INT8: raise_as(low, vectorFrom, vectorTo, parts, shape, numRows, out, outStride, CHANGE_INT8, ahead); break;
  }
}
