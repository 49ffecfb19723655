// Products of rounded rows with weights of 8 bits and in blocks. A few rows use weights as they are unpacked, group by
// group. Several rows do so in tiles that keep their sums in registers for a span of eight groups. Many rows have a span's
// weights unpacked once into the first-level cache. The way and the shape of a tile change no bit: each output adds up
// its own groups, in their order.

#include "blocks_unpack.h"

/** Largest number of rows for which weights are used as they are unpacked. */
enum { FEW_ROWS = 4 * GROUP_ROWS };
/** Largest number of rows that run in tiles over weights as they are packed. */
enum { SEVERAL_ROWS = 20 };

/** Place of a tile in a product. */
typedef struct {
  /** Bytes of the span; scales and minimums, if there are any; distances in bytes from a group's to the next. */
  const uint8_t *codes;
  const float *scales, *minimums;
  int32_t codesStride, scalesStride;
  const Rows *x;
  int row, firstGroup, numGroups;
  int32_t zero;
  /** First output of the first row. */
  float *out;
  int32_t outStride;
  /** Weights that are read after this span, and lines of 64 bytes that each group prefetches of them. */
  const uint8_t *next;
  int nextLines;
} Tile;

/** Prefetches a group's part of the weights that are read after this span. */
INLINE void prefetch_next(const Tile *tile, int group) {
  for (int line = 0; line < tile->nextLines; line++) __builtin_prefetch(tile->next + (size_t)(group * tile->nextLines + line) * 64, 0, 2);
}

/** Returns the sum of the inputs of a group's block. */
INLINE int32_t block_sum(const Rows *x, size_t group, int block, const int numBlocks) {
  if (numBlocks == 1) return x->sums[group];
  return block == 0 ? x->halfSums[group] : x->sums[group] - x->halfSums[group];
}

/** Adds a group's product to an output's sum, with the weights' scale and minimum if they have any. */
INLINE Floats add_group(Floats sum, Ints product, Floats inputScale, const int hasScale, Floats scale, const int hasMinimum, Floats minimum, Floats offset) {
  Floats value = to_floats(product);
  if (hasScale) value = mul(value, scale);
  sum = add(sum, mul(value, inputScale));
  return hasMinimum ? add(sum, mul(minimum, offset)) : sum;
}

/**
 * Adds a span's products to R rows by V vectors of outputs.
 * @param hasBytes - whether codes need all eight bits @param block - 16 or 32; 0 for scales of whole outputs
 */
INLINE void tile_span(const Tile *tile, const int R, const int V, const int hasBytes, const int block, const int hasMinimums) {
  enum { MOST_R = 4 };
  const int numBlocks = block == 16 ? 2 : 1;
  const Rows rows = *tile->x, *x = &rows;
  const size_t width = (size_t)x->width, groups = width / GROUP;
  Floats sums[MOST_R][4];
  UNROLLED(r, R) UNROLLED(v, V) sums[r][v] = tile->firstGroup == 0 ? splat(0) : load(tile->out + (size_t)r * tile->outStride + 16 * v);
  for (int g = 0; g < tile->numGroups; g++) {
    const uint8_t *codes = tile->codes + g * tile->codesStride;
    const size_t first = (size_t)tile->row * groups + (size_t)(tile->firstGroup + g);
    prefetch_next(tile, g);
    for (int b = 0; b < numBlocks; b++) {
      Ints dots[MOST_R][4];
      UNROLLED(r, R) {
        int32_t sum = block_sum(x, first + (size_t)r * groups, b, numBlocks);
        UNROLLED(v, V) dots[r][v] = splat_int(block > 0 ? -tile->zero * sum : offset_of(sum));
      }
#pragma clang loop unroll(full)
      for (int half = b; half < (numBlocks == 2 ? b + 1 : 2); half++) {
        Inputs inputs[MOST_R];
        UNROLLED(r, R) inputs[r] = load_inputs(x, (first + (size_t)r * groups) * GROUP + 16 * (size_t)half);
        UNROLLED(k, 4) {
          const uint8_t *line = codes + LINE_BYTES * (4 * half + k);
          Quads quads[4];
          UNROLLED(v, V) quads[v] = quads_of_codes(load_bytes(line + 64 * v));
          UNROLLED(r, R) UNROLLED(v, V) dots[r][v] = (hasBytes ? dot : dot_codes)(dots[r][v], quads[v], quad_of(inputs[r], k));
          UNROLLED(r, R) UNROLLED(v, V) SETTLE(dots[r][v]);
        }
      }
      const float *scales = (const float *)((const uint8_t *)tile->scales + g * tile->scalesStride) + b * PANEL;
      const float *minimums = tile->minimums + (size_t)(g * numBlocks + b) * PANEL;
      UNROLLED(r, R) {
        const size_t group = first + (size_t)r * groups;
        Floats scale = splat(x->scales[group]), offset = splat(x->scales[group] * (float)block_sum(x, group, b, numBlocks));
        UNROLLED(v, V) {
          Floats weightScale = block > 0 ? load(scales + 16 * v) : splat(1), minimum = hasMinimums ? load(minimums + 16 * v) : splat(0);
          sums[r][v] = add_group(sums[r][v], dots[r][v], scale, block > 0, weightScale, hasMinimums, minimum, offset);
          if (R > 1) SETTLE(sums[r][v]);
        }
      }
    }
  }
  UNROLLED(r, R) UNROLLED(v, V) store(tile->out + (size_t)r * tile->outStride + 16 * v, sums[r][v]);
}

/** Runs all rows `[rowFrom, rowTo)` of a span by V vectors of outputs, by the largest tiles that fit. */
INLINE void span_rows(Tile tile, int rowFrom, int rowTo, const int V, const int hasBytes, const int block, const int hasMinimums) {
  // The first tile finds the span in the cache or reads it; the others prefetch the next one.
  int numLines = tile.nextLines, numOthers = (rowTo - rowFrom - 1) / SPAN_ROWS;
  int lines = numOthers > 0 ? (numLines + numOthers * tile.numGroups - 1) / (numOthers * tile.numGroups) : 0;
  tile.nextLines = 0;
  float *out = tile.out;
  for (tile.row = rowFrom; tile.row < rowTo;) {
    tile.out = out + (size_t)(tile.row - rowFrom) * tile.outStride;
    // Four last rows are one tile where two would read the weights twice.
    int left = rowTo - tile.row, isFour = SPAN_VECTORS == 4 && V == 4 && left == 4;
    int rows = isFour ? 4 : left >= SPAN_ROWS ? SPAN_ROWS : left;
    if (isFour) tile_span(&tile, 4, V, hasBytes, block, hasMinimums);
    else if (rows == SPAN_ROWS) tile_span(&tile, SPAN_ROWS, V, hasBytes, block, hasMinimums);
    else if (SPAN_ROWS > 2 && rows == 2) tile_span(&tile, 2, V, hasBytes, block, hasMinimums);
    else tile_span(&tile, 1, V, hasBytes, block, hasMinimums);
    tile.row += rows;
    if (tile.nextLines > 0) tile.next += (size_t)(tile.numGroups * tile.nextLines) * 64;
    tile.nextLines = lines;
  }
}

/** Kinds of tiles: types whose spans are the same once they are unpacked. */
#define SPAN_KIND(name, hasBytes, block, hasMinimums) \
  __attribute__((noinline)) static void name(const Tile *tile, int rowFrom, int rowTo, int numVectors) { \
    Tile own = *tile; \
    int v = 0; \
    for (; v + SPAN_VECTORS <= numVectors; v += SPAN_VECTORS) { \
      span_rows(own, rowFrom, rowTo, SPAN_VECTORS, hasBytes, block, hasMinimums); \
      own.codes += 64 * SPAN_VECTORS, own.scales += 16 * SPAN_VECTORS, own.minimums += 16 * SPAN_VECTORS, own.out += 16 * SPAN_VECTORS; \
      own.nextLines = 0; \
    } \
    for (; SPAN_VECTORS > 1 && v < numVectors; v++) { \
      span_rows(own, rowFrom, rowTo, 1, hasBytes, block, hasMinimums); \
      own.codes += 64, own.scales += 16, own.minimums += 16, own.out += 16; \
      own.nextLines = 0; \
    } \
  }
SPAN_KIND(span_outputs, 1, 0, 0)
SPAN_KIND(span_codes_16, 0, 16, 0)
SPAN_KIND(span_codes_32, 0, 32, 0)
#ifdef HAS_OWN_DOT_CODES
SPAN_KIND(span_bytes_16, 1, 16, 0)
SPAN_KIND(span_bytes_32, 1, 32, 0)
#else
#define span_bytes_16 span_codes_16
#define span_bytes_32 span_codes_32
#endif
SPAN_KIND(span_minimums_16, 0, 16, 1)
SPAN_KIND(span_minimums_32, 0, 32, 1)
#undef SPAN_KIND

/**
 * Adds a group's products with R rows to V vectors of outputs; weights are used as they are unpacked.
 * @param at - the first row's group
 */
INLINE void group_outputs(const BlockType t, const uint8_t *group, const uint8_t *factors, const Rows *x, size_t at, const int R, const int V,
                          int vector, float *out, int32_t outStride) {
  const int numBlocks = GROUP / t.block;
  const size_t groups = (size_t)x->width / GROUP;
  Bytes more[4][2];
  load_more(t, group, V, vector, more);
  Ints dots[2][2][4];
  UNROLLED(r, R) UNROLLED(b, numBlocks) {
    int32_t sum = block_sum(x, at + (size_t)r * groups, b, numBlocks);
    UNROLLED(v, V) dots[r][b][v] = splat_int(has_bytes(t) ? offset_of(sum) : -t.zero * sum);
  }
  Inputs inputs[2][2];
  UNROLLED(r, R) UNROLLED(half, 2) inputs[r][half] = load_inputs(x, (at + (size_t)r * groups) * GROUP + 16 * (size_t)half);
#pragma clang loop unroll(full)
  for (int step = 0; step < 8; step++) {
    const int k = quad_at(t, step), b = numBlocks == 2 ? k / 4 : 0;
    Quad quads[2];
    UNROLLED(r, R) quads[r] = quad_of(inputs[r][k / 4], k % 4);
    UNROLLED(v, V) {
      Bytes codes = codes_of(t, group, more[v], k, vector + v);
      Quads weights = has_bytes(t) ? quads_of(codes) : quads_of_codes(codes);
      UNROLLED(r, R) {
        dots[r][b][v] = (has_bytes(t) ? dot : dot_codes)(dots[r][b][v], weights, quads[r]);
        // Loads stay in their order.
        SETTLE(dots[r][b][v]);
      }
    }
  }
  UNROLLED(v, V) {
    Floats sums[2];
    UNROLLED(r, R) sums[r] = load(out + (size_t)r * outStride + 16 * v);
    UNROLLED(b, numBlocks) {
      Floats scale = t.scale == SCALE_OUTPUT ? splat(1) : scales_of(t, group, factors, b, vector + v, 0);
      Floats minimum = t.hasMinimums ? scales_of(t, group, factors, b, vector + v, 1) : splat(0);
      UNROLLED(r, R) {
        const size_t own = at + (size_t)r * groups;
        Floats offset = splat(x->scales[own] * (float)block_sum(x, own, b, numBlocks));
        sums[r] = add_group(sums[r], dots[r][b][v], splat(x->scales[own]), t.scale != SCALE_OUTPUT, scale, t.hasMinimums, minimum, offset);
      }
    }
    UNROLLED(r, R) store(out + (size_t)r * outStride + 16 * v, sums[r]);
  }
}

/** Adds a group's products with R rows to vectors `[from, to)`. */
INLINE void group_rows(const BlockType t, const uint8_t *group, const uint8_t *factors, const Rows *x, size_t at, const int R, int from, int to,
                       float *out, int32_t outStride) {
  if (GROUP_VECTORS == 4 && to - from == 4) group_outputs(t, group, factors, x, at, R, GROUP_VECTORS, 0, out, outStride);
  else for (int v = from; v < to; v++) group_outputs(t, group, factors, x, at, R, 1, v, out + 16 * (v - from), outStride);
}

/**
 * Adds a span's products with a few rows to vectors `[from, to)`. Lines are read in their order, from one group to the
 * next, because processors fetch ahead only then as fast as memory can.
 */
INLINE void few_rows_span(const BlockType t, const uint8_t *packed, const Tile *tile, int rowFrom, int rowTo, int from, int to) {
  const uint8_t *factors = packed + SPAN_GROUPS * group_bytes(t);
  const Rows rows = *tile->x;
  for (int row = rowFrom; tile->firstGroup == 0 && row < rowTo; row++)
    for (int v = 0; v < to - from; v++) store(tile->out + (size_t)(row - rowFrom) * tile->outStride + 16 * v, splat(0));
  for (int g = 0; g < tile->numGroups; g++) {
    const uint8_t *group = packed + g * group_bytes(t);
    read_ahead(group, group_bytes(t));
    for (int row = rowFrom; row < rowTo;) {
      const size_t at = (size_t)row * ((size_t)rows.width / GROUP) + (size_t)(tile->firstGroup + g);
      float *out = tile->out + (size_t)(row - rowFrom) * tile->outStride;
      int isPair = GROUP_ROWS == 2 && row + 2 <= rowTo;
      if (isPair) group_rows(t, group, factors, &rows, at, 2, from, to, out, tile->outStride);
      else group_rows(t, group, factors, &rows, at, 1, from, to, out, tile->outStride);
      row += isPair ? 2 : 1;
    }
  }
}

#ifdef HAS_PACKED_TILES
/** Adds a span's products to R rows of a panel's outputs; weights are used as they are unpacked, and sums stay in registers. */
INLINE void tile_packed(const BlockType t, const uint8_t *packed, const Tile *tile, const int R) {
  enum { V = 4 };
  const int numBlocks = GROUP / t.block;
  const uint8_t *factors = packed + SPAN_GROUPS * group_bytes(t);
  const Rows rows = *tile->x, *x = &rows;
  const size_t groups = (size_t)x->width / GROUP;
  Floats sums[3][V];
  UNROLLED(r, R) UNROLLED(v, V) sums[r][v] = tile->firstGroup == 0 ? splat(0) : load(tile->out + (size_t)r * tile->outStride + 16 * v);
  for (int g = 0; g < tile->numGroups; g++) {
    const uint8_t *group = packed + g * group_bytes(t);
    const size_t first = (size_t)tile->row * groups + (size_t)(tile->firstGroup + g);
    prefetch_next(tile, g);
    UNROLLED(b, numBlocks) {
      Ints dots[3][V];
      UNROLLED(r, R) {
        int32_t sum = block_sum(x, first + (size_t)r * groups, b, numBlocks);
        UNROLLED(v, V) dots[r][v] = splat_int(has_bytes(t) ? offset_of(sum) : -t.zero * sum);
      }
      UNROLLED(step, 8 / numBlocks) {
        const int k = numBlocks == 2 ? 4 * b + step : quad_at(t, step);
        Quads weights[V];
        UNROLLED(v, V) {
          // Lines of upper bits are loaded again for each step: registers are for sums.
          Bytes more[1][2];
          load_more(t, group, 1, v, more);
          Bytes codes = codes_of(t, group, more[0], k, v);
          weights[v] = has_bytes(t) ? quads_of(codes) : quads_of_codes(codes);
        }
        UNROLLED(r, R) {
          Quad quad = quad_of(load_inputs(x, (first + (size_t)r * groups) * GROUP + 16 * (size_t)(k / 4)), k % 4);
          UNROLLED(v, V) dots[r][v] = (has_bytes(t) ? dot : dot_codes)(dots[r][v], weights[v], quad);
        }
        UNROLLED(r, R) UNROLLED(v, V) SETTLE(dots[r][v]);
      }
      Floats scales[V], minimums[V];
      UNROLLED(v, V) {
        scales[v] = scales_of(t, group, factors, b, v, 0);
        minimums[v] = t.hasMinimums ? scales_of(t, group, factors, b, v, 1) : splat(0);
      }
      UNROLLED(r, R) {
        const size_t own = first + (size_t)r * groups;
        Floats scale = splat(x->scales[own]), offset = splat(x->scales[own] * (float)block_sum(x, own, b, numBlocks));
        UNROLLED(v, V) {
          sums[r][v] = add_group(sums[r][v], dots[r][v], scale, 1, scales[v], t.hasMinimums, minimums[v], offset);
          SETTLE(sums[r][v]);
        }
      }
    }
  }
  UNROLLED(r, R) UNROLLED(v, V) store(tile->out + (size_t)r * tile->outStride + 16 * v, sums[r][v]);
}

/** Adds a span's products with several rows, three by three or two by two, to a panel's outputs. */
INLINE void several_rows_span(const BlockType t, const uint8_t *packed, const Tile *span, int rowFrom, int rowTo) {
  Tile tile = *span;
  const int numTiles = (rowTo - rowFrom + 2) / 3;
  tile.nextLines = (tile.nextLines + numTiles * tile.numGroups - 1) / (numTiles * tile.numGroups);
  for (tile.row = rowFrom; tile.row < rowTo;) {
    int left = rowTo - tile.row, rows = left == 2 || left == 4 ? 2 : 3;
    tile.out = span->out + (size_t)(tile.row - rowFrom) * tile.outStride;
    if (rows == 3) tile_packed(t, packed, &tile, 3);
    else tile_packed(t, packed, &tile, 2);
    tile.row += rows;
    if (tile.nextLines > 0) tile.next += (size_t)(tile.numGroups * tile.nextLines) * 64;
  }
}

/**
 * Checks that tiles over packed weights are the fastest way. They read lines out of order, which costs more than they gain
 * while memory is the limit.
 */
INLINE int are_several(const BlockType t, int numRows) {
  int few = t.bits == 8 ? FEW_ROWS : t.bits == 4 && !t.moreBits && t.block == GROUP ? GROUP_ROWS : 2 * GROUP_ROWS;
  return numRows > few && numRows <= SEVERAL_ROWS;
}

#define SEVERAL_OF_TYPE(name, ...) \
  NOINLINE static void several_rows_##name(const uint8_t *packed, const Tile *tile, int rowFrom, int rowTo) { \
    several_rows_span((BlockType){__VA_ARGS__}, packed, tile, rowFrom, rowTo); \
  }
EACH_BLOCK_TYPE(SEVERAL_OF_TYPE)
#undef SEVERAL_OF_TYPE
#endif

/** Unpacks a span and runs its tiles. */
INLINE void block_span(const BlockType t, const uint8_t *packed, const Tile *tile, int rowFrom, int rowTo, int from, int to) {
  if (rowTo - rowFrom <= FEW_ROWS) return few_rows_span(t, packed, tile, rowFrom, rowTo, from, to);
  Span span;
  Tile own = *tile;
  if (are_operands(t)) {
    own.codes = packed + 64 * from;
    own.scales = (const float *)(packed + plane_bytes(t)) + 16 * from;
    own.codesStride = own.scalesStride = group_bytes(t);
  } else {
    unpack_span(t, packed, tile->numGroups, from, to, &span);
    own.codes = span.codes + 64 * from;
    own.scales = span.scales + 16 * from;
    own.scalesStride = GROUP / t.block * PANEL * 4;
  }
  own.minimums = span.minimums + 16 * from;
  own.zero = has_bytes(t) && !QUADS_ARE_UNSIGNED ? 0 : t.zero;
  if (has_bytes(t)) (t.block == 16 ? span_bytes_16 : span_bytes_32)(&own, rowFrom, rowTo, to - from);
  else if (t.hasMinimums) (t.block == 16 ? span_minimums_16 : span_minimums_32)(&own, rowFrom, rowTo, to - from);
  else (t.block == 16 ? span_codes_16 : span_codes_32)(&own, rowFrom, rowTo, to - from);
}

/** Runs the tiles of a span of FORMAT_INT8. */
static void byte_span(Tile *tile, const uint8_t *packed, int rowFrom, int rowTo, int from, int to) {
  const BlockType bytes = {.bits = 8, .zero = 128, .block = GROUP, .scale = SCALE_OUTPUT};
  if (rowTo - rowFrom <= FEW_ROWS) return few_rows_span(bytes, packed, tile, rowFrom, rowTo, from, to);
  Span span;
  tile->codes = unpack_bytes(packed, tile->numGroups, from, to, &span);
  span_outputs(tile, rowFrom, rowTo, to - from);
}

/** Computes vectors `[from, to)` of a panel of FORMAT_INT8 or of blocks for rows `[rowFrom, rowTo)`. */
static void panel_product(const Tensor *t, int panel, int from, int to, const Rows *x, int rowFrom, int rowTo, float *out, int32_t outStride,
                          const uint8_t *ahead) {
  const uint8_t *weights = t->weights + (size_t)panel * t->panelBytes;
  const size_t spanBytes = t->format == FORMAT_INT8 ? SPAN_GROUPS * GROUP * PANEL : (size_t)span_bytes(BLOCK_TYPES[t->format - FORMAT_BLOCKS]);
  for (int g = 0; g < t->numGroups; g += SPAN_GROUPS) {
    const uint8_t *packed = weights + (size_t)(g / SPAN_GROUPS) * spanBytes;
    int left = t->numGroups - g, numGroups = left < SPAN_GROUPS ? left : SPAN_GROUPS;
    const uint8_t *next = g + numGroups == t->numGroups ? ahead : packed + spanBytes;
    // Weights of 8 bits have neither scales nor minimums here.
    const float *none = x->scales;
    Tile tile = {.codes = packed + 64 * from, .scales = none, .minimums = none, .x = x, .firstGroup = g, .numGroups = numGroups,
                 .codesStride = GROUP * PANEL, .out = out, .outStride = outStride, .next = next, .nextLines = next ? (int)(spanBytes / 64) : 0};
    switch ((int)t->format) {
#ifdef HAS_PACKED_TILES
#define CASE_OF_TYPE(name, ...) \
  case FORMAT_BLOCKS + BLOCK_##name: \
    if (to - from == 4 && are_several((BlockType){__VA_ARGS__}, rowTo - rowFrom)) several_rows_##name(packed, &tile, rowFrom, rowTo); \
    else block_span((BlockType){__VA_ARGS__}, packed, &tile, rowFrom, rowTo, from, to); \
    break;
#else
#define CASE_OF_TYPE(name, ...) \
  case FORMAT_BLOCKS + BLOCK_##name: block_span((BlockType){__VA_ARGS__}, packed, &tile, rowFrom, rowTo, from, to); break;
#endif
      EACH_BLOCK_TYPE(CASE_OF_TYPE)
#undef CASE_OF_TYPE
      default: byte_span(&tile, packed, rowFrom, rowTo, from, to); break;
    }
  }
  finish_outputs(t, (size_t)panel * PANEL + 16 * (size_t)from, to - from, rowTo - rowFrom, out, outStride);
}
