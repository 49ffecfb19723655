// Products of rows with packed weights, by tiles of TILE_ROWS x TILE_VECTORS vectors of sums in registers. The shape of
// a tile changes no bit: each output adds up its own groups, in their order.

// Distance of prefetches, since processors stop prefetching by themselves at the end of a page of 4 kB.
enum { AHEAD_BYTES = 4096 };

/**
 * Prefetches every fourth line of 64 bytes into the second-level cache. Processors fetch the lines between by themselves,
 * and faster than they obey prefetches of all lines, if a product reads them in their order.
 */
INLINE void read_ahead(const uint8_t *weights, const int numBytes) {
  for (int at = 0; at < numBytes; at += 256) __builtin_prefetch(weights + AHEAD_BYTES + at, 0, 2);
}

// SETTLE keeps loads that follow behind a sum: a compiler that moves them ahead stores sums in memory for them.
#ifndef SETTLE
#define SETTLE(sum) (void)(sum)
#endif
#define UNROLLED(i, count) _Pragma("clang loop unroll(full)") for (int i = 0; i < (count); i++)

#ifndef HAS_LANES
/** Sixteen inputs of a row, of which four are loaded where they are used. */
typedef struct { const Rows *rows; size_t at; } Inputs;
INLINE Inputs load_inputs(const Rows *x, size_t at) { return (Inputs){x, at}; }
INLINE Quad quad_of(Inputs inputs, int quad) { return load_quad(inputs.rows, inputs.at + 4 * (size_t)quad); }
#endif

/** Finishes outputs: their scales and biases. */
INLINE void finish_outputs(const Tensor *t, size_t column, int numVectors, int numRows, float *out, int32_t outStride) {
  if (!t->scales && !t->bias) return;
  for (int r = 0; r < numRows; r++)
    for (int v = 0; v < numVectors; v++) {
      float *at = out + (size_t)r * outStride + 16 * v;
      Floats value = load(at);
      if (t->scales) value = mul(value, load(t->scales + column + 16 * (size_t)v));
      if (t->bias) value = add(value, load(t->bias + column + 16 * (size_t)v));
      store(at, value);
    }
}

#include "blocks_product.h"
#ifdef HAS_OWN_TILE_INT8
#include "product_wasm.h"
#endif

/** Number of inputs that are summed separately before they join the sum, which limits the rounding of long sums. */
enum { FLOAT_RUN = 128 };

/** Returns 16 weights of a panel in float32. */
INLINE Floats load_weights(const Format format, const uint8_t *panel, size_t at) {
  if (format == FORMAT_HALF) return load_halves((const uint16_t *)panel + at);
  if (format == FORMAT_BFLOAT) return load_bfloats((const uint16_t *)panel + at);
  return load((const float *)panel + at);
}

INLINE void tile_float(const Tensor *t, const uint8_t *panel, const int vector, const Rows *x, int row, const int R, const int V,
                       Floats sums[TILE_ROWS][4], const Format format) {
  const int isShort = format == FORMAT_HALF || format == FORMAT_BFLOAT;
  for (int from = 0; from < t->numIn; from += FLOAT_RUN) {
    int to = from + FLOAT_RUN < t->numIn ? from + FLOAT_RUN : t->numIn;
    Floats parts[TILE_ROWS][4];
    for (int r = 0; r < R; r++)
      for (int v = 0; v < V; v++) parts[r][v] = splat(0);
    for (int k = from; k < to; k++) {
      Floats weight[4];
      const size_t at = (size_t)k * PANEL + 16 * (size_t)vector;
      read_ahead(panel + at * (isShort ? 2 : 4), 64 * V);
      for (int v = 0; v < V; v++) weight[v] = load_weights(format, panel, at + 16 * (size_t)v);
      for (int r = 0; r < R; r++) {
        Floats input = splat(x->floats[(size_t)(row + r) * x->width + k]);
        for (int v = 0; v < V; v++)
          parts[r][v] = format == FORMAT_ROUTER ? add(mul(input, weight[v]), parts[r][v]) : multiply_add(input, weight[v], parts[r][v]);
      }
    }
    for (int r = 0; r < R; r++)
      for (int v = 0; v < V; v++) sums[r][v] = add(sums[r][v], parts[r][v]);
  }
}

/** Computes vectors `[vector, vector + V)` of a panel for rows `[row, row + R)`. */
INLINE void tile(const Tensor *t, int panel, const Rows *x, int row, const int R, const int V, const int vector, const Format format, float *out,
                 int32_t outStride) {
  Floats sums[TILE_ROWS][4];
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) sums[r][v] = splat(0);
  const uint8_t *weights = t->weights + (size_t)panel * t->panelBytes;
  if (format != FORMAT_INT8) tile_float(t, weights, vector, x, row, R, V, sums, format);
#ifdef HAS_OWN_TILE_INT8
  if (format == FORMAT_INT8) tile_int8(t, weights + 64 * vector, x, row, R, V, sums);
#endif
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) store(out + (size_t)r * outStride + 16 * v, sums[r][v]);
  finish_outputs(t, (size_t)panel * PANEL + 16 * (size_t)vector, V, R, out, outStride);
}

/** Computes vectors `[vector, vector + V)` of a panel for rows `[rowFrom, rowTo)`, by the largest tiles that fit. */
INLINE void vectors_rows(const Tensor *t, int panel, const Rows *x, int rowFrom, int rowTo, const int V, const int vector, const Format format,
                         float *out, int32_t outStride) {
#define TILE(R) tile(t, panel, x, row, R, V, vector, format, out + (size_t)(row - rowFrom) * outStride, outStride)
  int row = rowFrom;
  for (; row + TILE_ROWS <= rowTo; row += TILE_ROWS) TILE(TILE_ROWS);
#if TILE_ROWS > 4
  for (; row + 4 <= rowTo; row += 4) TILE(4);
#endif
#if TILE_ROWS > 2
  // An expert often has three rows, and one tile reads its weights once.
  for (; row + 3 == rowTo; row += 3) TILE(3);
  for (; row + 2 <= rowTo; row += 2) TILE(2);
#endif
#if TILE_ROWS > 1
  for (; row < rowTo; row++) TILE(1);
#endif
#undef TILE
}

/** Computes a single row by ROW_VECTORS vectors, several rows by TILE_VECTORS, and the rest by one vector. */
INLINE void product_of(const Tensor *t, int vectorFrom, int vectorTo, const Rows *x, int rowFrom, int rowTo, const Format format, float *out,
                       int32_t outStride) {
  int isRow = rowTo - rowFrom == 1, most = isRow ? ROW_VECTORS : TILE_VECTORS;
  for (int v = vectorFrom; v < vectorTo;) {
    int panel = v / 4, vector = v % 4, count = vector % most == 0 && v + most <= vectorTo ? most : 1;
    if (isRow && count > 1) tile(t, panel, x, rowFrom, 1, ROW_VECTORS, vector, format, out, outStride);
    else if (count > 1) vectors_rows(t, panel, x, rowFrom, rowTo, TILE_VECTORS, vector, format, out, outStride);
    else vectors_rows(t, panel, x, rowFrom, rowTo, 1, vector, format, out, outStride);
    v += count;
    out += 16 * count;
  }
}

/** Does the same for FORMAT_INT8 and blocks, panel by panel. */
static void rounded_product(const Tensor *t, int vectorFrom, int vectorTo, const Rows *x, int rowFrom, int rowTo, float *out, int32_t outStride,
                            const uint8_t *ahead) {
  for (int v = vectorFrom, end; v < vectorTo; out += 16 * (end - v), v = end) {
    int panel = v / 4;
    end = 4 * panel + 4 < vectorTo ? 4 * panel + 4 : vectorTo;
    const uint8_t *next = end < vectorTo ? t->weights + (size_t)(panel + 1) * t->panelBytes : ahead;
    panel_product(t, panel, v - 4 * panel, end - 4 * panel, x, rowFrom, rowTo, out, outStride, next);
  }
}

static void product(const Tensor *t, int32_t vectorFrom, int32_t vectorTo, const Rows *x, int32_t rowFrom, int32_t rowTo, float *out,
                    int32_t outStride, const uint8_t *ahead) {
  switch (t->format) {
    case FORMAT_FLOAT: product_of(t, vectorFrom, vectorTo, x, rowFrom, rowTo, FORMAT_FLOAT, out, outStride); break;
    case FORMAT_HALF: product_of(t, vectorFrom, vectorTo, x, rowFrom, rowTo, FORMAT_HALF, out, outStride); break;
    case FORMAT_BFLOAT: product_of(t, vectorFrom, vectorTo, x, rowFrom, rowTo, FORMAT_BFLOAT, out, outStride); break;
    case FORMAT_ROUTER: product_of(t, vectorFrom, vectorTo, x, rowFrom, rowTo, FORMAT_ROUTER, out, outStride); break;
#ifdef HAS_OWN_TILE_INT8
    case FORMAT_INT8: product_of(t, vectorFrom, vectorTo, x, rowFrom, rowTo, FORMAT_INT8, out, outStride); break;
#endif
    default: rounded_product(t, vectorFrom, vectorTo, x, rowFrom, rowTo, out, outStride, ahead); break;
  }
}
