// Products of rows with packed weights, by tiles of TILE_ROWS x TILE_VECTORS vectors of sums in registers. The shape of
// a tile changes no bit: each output adds up its own groups, in their order.

// Distance of prefetches, since processors stop prefetching by themselves at the end of a page of 4 kB.
enum { AHEAD_BYTES = 3072 };

INLINE void read_ahead(const uint8_t *weights, const int V) {
  for (int v = 0; v < V; v++) __builtin_prefetch(weights + AHEAD_BYTES + 64 * v);
}

/** Lines of 64 bytes, in each group `[from, to)` of the next panel, that a tile prefetches while it computes. */
typedef struct {
  const uint8_t *panel;
  int from, to;
} Next;

INLINE void read_next(Next next, size_t groupBytes, int group) {
  const uint8_t *bytes = next.panel + (size_t)group * groupBytes;
  // Into the second-level cache; the first one holds the current panel.
  for (int line = next.from; line < next.to; line++) __builtin_prefetch(bytes + 64 * line, 0, 2);
}

#ifdef HAS_OWN_TILE_INT8
#include "product_wasm.h"
#else
/** Adds the integer sums of each group, times the inputs' scale, to float sums. */
INLINE void tile_int8(const Tensor *t, const uint8_t *weights, const Rows *x, int row, const int R, const int V, Floats sums[TILE_ROWS][4],
                      Next next) {
  for (int g = 0; g < t->numGroups; g++) {
    read_next(next, GROUP * PANEL, g);
    Ints dots[TILE_ROWS][4];
    for (int r = 0; r < R; r++) {
      size_t group = (size_t)(row + r) * (x->width / GROUP) + g;
      for (int v = 0; v < V; v++) dots[r][v] = splat_int(x->offsets[group]);
    }
    for (int k = 0; k < GROUP; k += 4) {
      Quads quads[4];
      const uint8_t *p = weights + (size_t)(g * GROUP + k) * PANEL;
      if (next.from == next.to) read_ahead(p, V);
      for (int v = 0; v < V; v++) quads[v] = load_quads(p + 64 * v);
      for (int r = 0; r < R; r++) {
        Quad inputs = load_quad(x, (size_t)(row + r) * x->width + g * GROUP + k);
        for (int v = 0; v < V; v++) dots[r][v] = dot(dots[r][v], quads[v], inputs);
      }
    }
    for (int r = 0; r < R; r++) {
      Floats scale = splat(x->scales[(size_t)(row + r) * (x->width / GROUP) + g]);
      for (int v = 0; v < V; v++) sums[r][v] = add(sums[r][v], mul(to_floats(dots[r][v]), scale));
    }
  }
}
#endif

/** Returns the sum of the inputs of a group's block. */
INLINE int32_t block_sum(const Rows *x, size_t group, int block, int numBlocks) {
  if (numBlocks == 1) return x->sums[group];
  return block == 0 ? x->halfSums[group] : x->sums[group] - x->halfSums[group];
}

/** Does the same as `tile_int8`, with a scale of the weights for each block of 16 or 32 inputs. */
INLINE void tile_int8_blocks(const Tensor *t, const uint8_t *weights, const Rows *x, int row, const int R, const int V,
                             Floats sums[TILE_ROWS][4], const int vector) {
  int numBlocks = GROUP / t->block;
  for (int g = 0; g < t->numGroups; g++) {
    const uint8_t *bytes = weights + (size_t)g * t->groupBytes;
    const float *scales = (const float *)(bytes + GROUP * PANEL) + 16 * vector;
    for (int b = 0; b < numBlocks; b++) {
      Ints dots[TILE_ROWS][4];
      for (int r = 0; r < R; r++) {
        size_t group = (size_t)(row + r) * (x->width / GROUP) + g;
        int32_t offset = offset_of(block_sum(x, group, b, numBlocks));
        for (int v = 0; v < V; v++) dots[r][v] = splat_int(offset);
      }
      for (int k = b * t->block; k < (b + 1) * t->block; k += 4) {
        Quads quads[4];
        const uint8_t *p = bytes + (size_t)k * PANEL + 64 * vector;
        read_ahead(p, V);
        for (int v = 0; v < V; v++) quads[v] = load_quads(p + 64 * v);
        for (int r = 0; r < R; r++) {
          Quad inputs = load_quad(x, (size_t)(row + r) * x->width + g * GROUP + k);
          for (int v = 0; v < V; v++) dots[r][v] = dot(dots[r][v], quads[v], inputs);
        }
      }
      for (int r = 0; r < R; r++) {
        Floats scale = splat(x->scales[(size_t)(row + r) * (x->width / GROUP) + g]);
        for (int v = 0; v < V; v++) {
          Floats value = mul(to_floats(dots[r][v]), load(scales + b * PANEL + 16 * v));
          sums[r][v] = add(sums[r][v], mul(value, scale));
        }
      }
    }
  }
}

/** Uses nibbles as the products' unsigned operand; the minimums are multiplied by the sum of the inputs. */
INLINE void tile_int4_blocks(const Tensor *t, const uint8_t *weights, const Rows *x, int row, const int R, const int V,
                             Floats sums[TILE_ROWS][4], const int vector) {
  int numBlocks = GROUP / t->block;
  for (int g = 0; g < t->numGroups; g++) {
    const uint8_t *bytes = weights + (size_t)g * t->groupBytes;
    const float *scales = (const float *)(bytes + GROUP / 2 * PANEL) + 16 * vector;
    const float *minimums = scales + numBlocks * PANEL;
    for (int b = 0; b < numBlocks; b++) {
      Ints dots[TILE_ROWS][4];
      int32_t blockSums[TILE_ROWS];
      for (int r = 0; r < R; r++) {
        size_t group = (size_t)(row + r) * (x->width / GROUP) + g;
        blockSums[r] = block_sum(x, group, b, numBlocks);
        for (int v = 0; v < V; v++) dots[r][v] = splat_int(t->hasMinimums ? 0 : -8 * blockSums[r]);
      }
      for (int k = 0; k < 16; k += 4) {
        for (int high = numBlocks == 1 ? 0 : b; high <= (numBlocks == 1 ? 1 : b); high++) {
          Quads quads[4];
          const uint8_t *p = bytes + (size_t)k * PANEL + 64 * vector;
          if (!high) read_ahead(p, V);
          for (int v = 0; v < V; v++) quads[v] = high ? high_nibbles(p + 64 * v) : low_nibbles(p + 64 * v);
          for (int r = 0; r < R; r++) {
            Quad inputs = load_quad(x, (size_t)(row + r) * x->width + g * GROUP + 16 * high + k);
            for (int v = 0; v < V; v++) dots[r][v] = dot_nibbles(dots[r][v], quads[v], inputs);
          }
        }
      }
      for (int r = 0; r < R; r++) {
        float scale = x->scales[(size_t)(row + r) * (x->width / GROUP) + g];
        Floats offset = splat(scale * (float)blockSums[r]);
        for (int v = 0; v < V; v++) {
          Floats value = mul(to_floats(dots[r][v]), load(scales + b * PANEL + 16 * v));
          sums[r][v] = add(sums[r][v], mul(value, splat(scale)));
          if (t->hasMinimums) sums[r][v] = add(sums[r][v], mul(load(minimums + b * PANEL + 16 * v), offset));
        }
      }
    }
  }
}

/** Number of inputs that are summed separately before they join the sum, which limits the rounding of long sums. */
enum { FLOAT_RUN = 128 };

INLINE void tile_float(const Tensor *t, const float *weights, const Rows *x, int row, const int R, const int V, Floats sums[TILE_ROWS][4],
                       const int isFused) {
  for (int from = 0; from < t->numIn; from += FLOAT_RUN) {
    int to = from + FLOAT_RUN < t->numIn ? from + FLOAT_RUN : t->numIn;
    Floats parts[TILE_ROWS][4];
    for (int r = 0; r < R; r++)
      for (int v = 0; v < V; v++) parts[r][v] = splat(0);
    for (int k = from; k < to; k++) {
      Floats weight[4];
      read_ahead((const uint8_t *)(weights + (size_t)k * PANEL), V);
      for (int v = 0; v < V; v++) weight[v] = load(weights + (size_t)k * PANEL + 16 * v);
      for (int r = 0; r < R; r++) {
        Floats input = splat(x->floats[(size_t)(row + r) * x->width + k]);
        for (int v = 0; v < V; v++) parts[r][v] = isFused ? multiply_add(input, weight[v], parts[r][v]) : add(mul(input, weight[v]), parts[r][v]);
      }
    }
    for (int r = 0; r < R; r++)
      for (int v = 0; v < V; v++) sums[r][v] = add(sums[r][v], parts[r][v]);
  }
}

/** Computes vectors `[vector, vector + V)` of a panel for rows `[row, row + R)`. */
INLINE void tile(const Tensor *t, int panel, const Rows *x, int row, const int R, const int V, const int vector, const Format format,
                 Next next, float *out, int32_t outStride) {
  Floats sums[TILE_ROWS][4];
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) sums[r][v] = splat(0);
  const uint8_t *weights = t->weights + (size_t)panel * t->panelBytes;
  if (format == FORMAT_FLOAT || format == FORMAT_ROUTER)
    tile_float(t, (const float *)weights + 16 * vector, x, row, R, V, sums, format == FORMAT_FLOAT);
  if (format == FORMAT_INT8) tile_int8(t, weights + 64 * vector, x, row, R, V, sums, next);
  if (format == FORMAT_INT8_BLOCKS) tile_int8_blocks(t, weights, x, row, R, V, sums, vector);
  if (format == FORMAT_INT4_BLOCKS) tile_int4_blocks(t, weights, x, row, R, V, sums, vector);
  size_t column = (size_t)panel * PANEL + 16 * vector;
  for (int v = 0; v < V; v++) {
    Floats scale = format == FORMAT_INT8 ? load(t->scales + column + 16 * v) : splat(1);
    for (int r = 0; r < R; r++) {
      Floats value = format == FORMAT_INT8 ? mul(sums[r][v], scale) : sums[r][v];
      if (t->bias) value = add(value, load(t->bias + column + 16 * v));
      store(out + (size_t)r * outStride + 16 * v, value);
    }
  }
}

/**
 * Computes vectors `[vector, vector + V)` of a panel for rows `[rowFrom, rowTo)`, by the largest tiles that fit. The
 * first tile reads this panel from memory. The next ones find it in the cache, and prefetch the weights that this
 * thread multiplies with next, if they are known.
 */
INLINE void vectors_rows(const Tensor *t, int panel, const Rows *x, int rowFrom, int rowTo, const int V, const int vector,
                         const Format format, float *out, int32_t outStride, const uint8_t *ahead) {
  int numOthers = (rowTo - rowFrom - 1) / TILE_ROWS, lines = ahead && numOthers > 0 && V == 4 ? (32 + numOthers - 1) / numOthers : 0;
  Next next = {ahead ? ahead : t->weights, 0, 0};
#define TILE(R) \
  do { \
    tile(t, panel, x, row, R, V, vector, format, next, out + (size_t)(row - rowFrom) * outStride, outStride); \
    next.from = next.to; \
    next.to = next.from + lines < 32 ? next.from + lines : 32; \
  } while (0)
  int row = rowFrom;
  // Eight rows are two tiles of four: a tile of two rows has little time to prefetch the next panel.
  for (; row + TILE_ROWS <= rowTo && !(TILE_ROWS == 6 && rowTo - row == 8); row += TILE_ROWS) TILE(TILE_ROWS);
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
INLINE void product_of(const Tensor *t, int vectorFrom, int vectorTo, const Rows *x, int rowFrom, int rowTo, const Format format,
                       float *out, int32_t outStride, const uint8_t *ahead) {
  int isRow = rowTo - rowFrom == 1, most = isRow ? ROW_VECTORS : TILE_VECTORS;
  for (int v = vectorFrom; v < vectorTo;) {
    int panel = v / 4, vector = v % 4, count = vector % most == 0 && v + most <= vectorTo ? most : 1;
    if (isRow && count > 1) tile(t, panel, x, rowFrom, 1, ROW_VECTORS, vector, format, (Next){t->weights, 0, 0}, out, outStride);
    else if (count > 1) vectors_rows(t, panel, x, rowFrom, rowTo, TILE_VECTORS, vector, format, out, outStride,
                                v + count < vectorTo ? t->weights + (size_t)(panel + 1) * t->panelBytes : ahead);
    else vectors_rows(t, panel, x, rowFrom, rowTo, 1, vector, format, out, outStride, NULL);
    v += count;
    out += 16 * count;
  }
}

static void product(const Tensor *t, int32_t vectorFrom, int32_t vectorTo, const Rows *x, int32_t rowFrom, int32_t rowTo, float *out,
                    int32_t outStride, const uint8_t *ahead) {
  switch (t->format) {
    case FORMAT_FLOAT: product_of(t, vectorFrom, vectorTo, x, rowFrom, rowTo, FORMAT_FLOAT, out, outStride, ahead); break;
    case FORMAT_INT8: product_of(t, vectorFrom, vectorTo, x, rowFrom, rowTo, FORMAT_INT8, out, outStride, ahead); break;
    case FORMAT_INT8_BLOCKS: product_of(t, vectorFrom, vectorTo, x, rowFrom, rowTo, FORMAT_INT8_BLOCKS, out, outStride, ahead); break;
    case FORMAT_INT4_BLOCKS: product_of(t, vectorFrom, vectorTo, x, rowFrom, rowTo, FORMAT_INT4_BLOCKS, out, outStride, ahead); break;
    case FORMAT_ROUTER: product_of(t, vectorFrom, vectorTo, x, rowFrom, rowTo, FORMAT_ROUTER, out, outStride, ahead); break;
    default: break;
  }
}
