// Products of rounded rows with weights of 8 bits and in blocks. Inputs are taken in spans of eight groups, whose
// weights fit the first-level cache: blocks are unpacked there once for all rows. The shape of a tile changes no bit:
// each output adds up its own groups, in their order.

#include "blocks.h"

/** A panel's weights of a span: bytes `[group][8][64][4]`, then scales and minimums `[group][block][64]`. */
typedef struct {
  _Alignas(64) uint8_t codes[SPAN_GROUPS * GROUP * PANEL];
  float scales[SPAN_GROUPS * 2 * PANEL], minimums[SPAN_GROUPS * 2 * PANEL];
} Span;

/** Returns the codes of inputs `[4 * k, 4 * k + 4)` of a group for a vector of outputs. */
INLINE Bytes codes_of(const BlockType t, const uint8_t *group, const int k, const int vector) {
  enum { LINE = 4 * PANEL };
  const uint8_t *first = group + 64 * vector, *more = first + t.bits * LINE;
  if (t.bits == 8) return load_bytes(first + LINE * k);
  Bytes codes = t.bits == 4 ? moved(load_bytes(first + LINE * (k % 4)), k < 4 ? 0 : -4, 15) : moved(load_bytes(first + LINE * (k / 4)), -2 * (k % 4), 3);
  if (t.moreBits == 1) codes = either(codes, moved(load_bytes(more), t.bits - k, 1 << t.bits));
  if (t.moreBits == 2) codes = either(codes, moved(load_bytes(more + LINE * (k / 4)), 4 - 2 * (k % 4), 0x30));
  return t.codes == CODES_PLAIN ? codes : looked_up(codes, BLOCK_CODES[t.codes]);
}

/** Returns the scales of a block of a group, or its minimums, for a vector of outputs. */
INLINE Floats scales_of(const BlockType t, const uint8_t *group, const uint8_t *factors, const int block, const int vector, const int isMinimum) {
  const int at = block * PANEL + 16 * vector;
  const uint8_t *scales = group + plane_bytes(t) + (isMinimum && t.scale != SCALE_NIBBLE ? scale_bytes(t) : 0);
  const uint16_t *halves = (const uint16_t *)factors + (isMinimum ? PANEL : 0) + 16 * vector;
  switch (t.scale) {
    case SCALE_FLOAT: return load((const float *)scales + at);
    case SCALE_HALF: return load_halves((const uint16_t *)scales + at);
    case SCALE_POWER: return load_powers(scales + at);
    case SCALE_BYTE: return mul(load_halves(halves), load_signed(scales + at));
    case SCALE_NIBBLE: return mul(load_halves(halves), load_unsigned(scales + at, isMinimum ? 4 : 0, 15));
    default: return load_halves(halves);
  }
}

/** Makes operands of `dot`, once for all rows, of bytes with 128 added. */
#if QUADS_ARE_UNSIGNED
INLINE Bytes unpacked(Bytes b) { return b; }
#else
INLINE Bytes unpacked(Bytes b) { return flipped(b); }
#endif

/** Unpacks groups `[0, numGroups)` of a span for vectors `[from, to)` of a panel. */
INLINE void unpack_span(const BlockType t, const uint8_t *packed, int numGroups, int from, int to, Span *span) {
  const uint8_t *factors = packed + SPAN_GROUPS * group_bytes(t);
  for (int g = 0; g < numGroups; g++) {
    const uint8_t *group = packed + g * group_bytes(t);
    uint8_t *codes = span->codes + g * GROUP * PANEL;
    for (int v = from; v < to; v++) {
#pragma clang loop unroll(full)
      for (int k = 0; k < 8; k++) {
        Bytes line = codes_of(t, group, k, v);
        store_bytes(codes + 4 * PANEL * k + 64 * v, has_bytes(t) ? unpacked(line) : line);
      }
      for (int b = 0; b < GROUP / t.block; b++) {
        size_t at = (size_t)(g * GROUP / t.block + b) * PANEL + 16 * (size_t)v;
        store(span->scales + at, scales_of(t, group, factors, b, v, 0));
        if (t.hasMinimums) store(span->minimums + at, scales_of(t, group, factors, b, v, 1));
      }
    }
  }
}

/** Does the same for FORMAT_INT8, where the packed bytes are no operands. @returns the bytes of the first vector */
INLINE const uint8_t *unpack_bytes(const uint8_t *packed, int numGroups, int from, int to, Span *span) {
  if (QUADS_ARE_UNSIGNED) return packed + 64 * from;
  for (int line = 0; line < 8 * numGroups; line++)
    for (int v = 4 * line + from; v < 4 * line + to; v++) store_bytes(span->codes + 64 * v, unpacked(load_bytes(packed + 64 * v)));
  return span->codes + 64 * from;
}

/** Place of a tile in a product. */
typedef struct {
  /** Bytes of the span; scales and minimums, if there are any. */
  const uint8_t *codes;
  const float *scales, *minimums;
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

/** Returns the sum of the inputs of a group's block. */
INLINE int32_t block_sum(const Rows *x, size_t group, int block, const int numBlocks) {
  if (numBlocks == 1) return x->sums[group];
  return block == 0 ? x->halfSums[group] : x->sums[group] - x->halfSums[group];
}

/**
 * Adds a span's products to R rows by V vectors of outputs.
 * @param hasBytes - whether codes need all eight bits @param block - 16 or 32; 0 for scales of whole outputs, -1 where
 *   packed weights are read once and prefetched
 */
INLINE void tile_span(const Tile *tile, const int R, const int V, const int hasBytes, const int block, const int hasMinimums) {
  enum { MOST_R = 4 };
  const int numBlocks = block == 16 ? 2 : 1;
  const Rows rows = *tile->x, *x = &rows;
  const size_t width = (size_t)x->width, groups = width / GROUP;
  Floats sums[MOST_R][4];
  UNROLLED(r, R) UNROLLED(v, V) sums[r][v] = tile->firstGroup == 0 ? splat(0) : load(tile->out + (size_t)r * tile->outStride + 16 * v);
  for (int g = 0; g < tile->numGroups; g++) {
    const uint8_t *codes = tile->codes + g * GROUP * PANEL;
    const size_t first = (size_t)tile->row * groups + (size_t)(tile->firstGroup + g);
    for (int line = 0; line < tile->nextLines; line++) __builtin_prefetch(tile->next + (size_t)(g * tile->nextLines + line) * 64, 0, 2);
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
          const uint8_t *line = codes + 4 * PANEL * (4 * half + k);
          if (block < 0) read_ahead(line, V);
          Quads quads[4];
          UNROLLED(v, V) quads[v] = block < 0 ? quads_of(load_bytes(line + 64 * v)) : quads_of_codes(load_bytes(line + 64 * v));
          UNROLLED(r, R) UNROLLED(v, V) dots[r][v] = (hasBytes ? dot : dot_codes)(dots[r][v], quads[v], quad_of(inputs[r], k));
          UNROLLED(r, R) UNROLLED(v, V) SETTLE(dots[r][v]);
        }
      }
      const float *scales = tile->scales + (size_t)(g * numBlocks + b) * PANEL, *minimums = tile->minimums + (size_t)(g * numBlocks + b) * PANEL;
      UNROLLED(r, R) {
        const size_t group = first + (size_t)r * groups;
        Floats scale = splat(x->scales[group]), offset = splat(x->scales[group] * (float)block_sum(x, group, b, numBlocks));
        UNROLLED(v, V) {
          Floats value = to_floats(dots[r][v]);
          if (block > 0) value = mul(value, load(scales + 16 * v));
          sums[r][v] = add(sums[r][v], mul(value, scale));
          if (hasMinimums) sums[r][v] = add(sums[r][v], mul(load(minimums + 16 * v), offset));
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
SPAN_KIND(panel_outputs, 1, -1, 0)
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

/** Adds a span's products to V vectors of one row, whose weights are used as they are unpacked. */
INLINE void row_span(const BlockType t, const uint8_t *packed, const Tile *tile, const int V, const int vector) {
  const int numBlocks = GROUP / t.block, groupLines = group_bytes(t) / 64;
  const uint8_t *factors = packed + SPAN_GROUPS * group_bytes(t);
  const Rows *x = tile->x;
  Floats sums[4];
  for (int v = 0; v < V; v++) sums[v] = tile->firstGroup == 0 ? splat(0) : load(tile->out + 16 * v);
  for (int g = 0; g < tile->numGroups; g++) {
    const uint8_t *group = packed + g * group_bytes(t);
    const size_t at = (size_t)tile->row * ((size_t)x->width / GROUP) + (size_t)(tile->firstGroup + g);
    if (vector == 0) for (int line = 0; line < groupLines; line++) __builtin_prefetch(group + AHEAD_BYTES + 64 * line);
    Ints dots[2][4];
    for (int b = 0; b < numBlocks; b++) {
      int32_t sum = block_sum(x, at, b, numBlocks);
      for (int v = 0; v < V; v++) dots[b][v] = splat_int(has_bytes(t) ? offset_of(sum) : -t.zero * sum);
    }
    const Inputs low = load_inputs(x, at * GROUP), high = load_inputs(x, at * GROUP + 16);
    // Inputs of one line of nibbles follow each other.
#pragma clang loop unroll(full)
    for (int step = 0; step < 8; step++) {
      const int k = step / 2 + step % 2 * 4, b = numBlocks == 2 ? k / 4 : 0;
      Quad quad = quad_of(k < 4 ? low : high, k % 4);
      for (int v = 0; v < V; v++) {
        Bytes codes = codes_of(t, group, k, vector + v);
        dots[b][v] = has_bytes(t) ? dot(dots[b][v], quads_of(codes), quad) : dot_codes(dots[b][v], quads_of_codes(codes), quad);
        if (V == 1) SETTLE(dots[b][v]);
      }
    }
    for (int b = 0; b < numBlocks; b++) {
      Floats scale = splat(x->scales[at]), offset = splat(x->scales[at] * (float)block_sum(x, at, b, numBlocks));
      for (int v = 0; v < V; v++) {
        sums[v] = add(sums[v], mul(mul(to_floats(dots[b][v]), scales_of(t, group, factors, b, vector + v, 0)), scale));
        if (t.hasMinimums) sums[v] = add(sums[v], mul(scales_of(t, group, factors, b, vector + v, 1), offset));
      }
    }
  }
  for (int v = 0; v < V; v++) store(tile->out + 16 * v, sums[v]);
}

/** Unpacks a span and runs its tiles. */
INLINE void block_span(const BlockType t, const uint8_t *packed, const Tile *tile, int rowFrom, int rowTo, int from, int to) {
  Tile own = *tile;
  if (ROW_VECTORS > 1 && rowTo - rowFrom == 1) {
    own.row = rowFrom;
    // Whole panels where registers hold four vectors of sums; other processors read each vector's lines from the cache.
    if (SPAN_VECTORS == 4 && to - from == 4) row_span(t, packed, &own, SPAN_VECTORS, 0);
    else for (int v = from; v < to; v++, own.out += 16) row_span(t, packed, &own, 1, v);
    return;
  }
  Span span;
  unpack_span(t, packed, tile->numGroups, from, to, &span);
  own.codes = span.codes + 64 * from;
  own.scales = span.scales + 16 * from;
  own.minimums = span.minimums + 16 * from;
  own.zero = has_bytes(t) && !QUADS_ARE_UNSIGNED ? 0 : t.zero;
  if (has_bytes(t)) (t.block == 16 ? span_bytes_16 : span_bytes_32)(&own, rowFrom, rowTo, to - from);
  else if (t.hasMinimums) (t.block == 16 ? span_minimums_16 : span_minimums_32)(&own, rowFrom, rowTo, to - from);
  else (t.block == 16 ? span_codes_16 : span_codes_32)(&own, rowFrom, rowTo, to - from);
}

/** Runs the tiles of a span of FORMAT_INT8. */
static void byte_span(Tile *tile, const uint8_t *packed, int isOnce, int rowFrom, int rowTo, int from, int to) {
  if (isOnce) return panel_outputs(tile, rowFrom, rowTo, to - from);
  Span span;
  tile->codes = unpack_bytes(packed, tile->numGroups, from, to, &span);
  span_outputs(tile, rowFrom, rowTo, to - from);
}

/** Computes vectors `[from, to)` of a panel of FORMAT_INT8 or of blocks for rows `[rowFrom, rowTo)`. */
static void panel_product(const Tensor *t, int panel, int from, int to, const Rows *x, int rowFrom, int rowTo, float *out, int32_t outStride,
                          const uint8_t *ahead) {
  const uint8_t *weights = t->weights + (size_t)panel * t->panelBytes;
  const size_t spanBytes = t->format == FORMAT_INT8 ? SPAN_GROUPS * GROUP * PANEL : (size_t)span_bytes(BLOCK_TYPES[t->format - FORMAT_BLOCKS]);
  // One tile reads a panel of bytes from its beginning to its end.
  const int isOnce = t->format == FORMAT_INT8 && rowTo - rowFrom <= SPAN_ROWS + (SPAN_VECTORS == 4), most = isOnce ? t->numGroups : SPAN_GROUPS;
  for (int g = 0; g < t->numGroups; g += most) {
    const uint8_t *packed = weights + (size_t)(g / SPAN_GROUPS) * spanBytes;
    int isLast = g + most >= t->numGroups;
    const uint8_t *next = isLast ? ahead : packed + spanBytes;
    // Weights of 8 bits have neither scales nor minimums here.
    const float *none = x->scales;
    Tile tile = {.codes = packed + 64 * from, .scales = none, .minimums = none, .x = x, .firstGroup = g, .numGroups = isLast ? t->numGroups - g : most,
                 .out = out, .outStride = outStride, .next = next, .nextLines = next ? (int)(spanBytes / 64) : 0};
    switch ((int)t->format) {
#define CASE_OF_TYPE(name, ...) \
  case FORMAT_BLOCKS + BLOCK_##name: block_span((BlockType){__VA_ARGS__}, packed, &tile, rowFrom, rowTo, from, to); break;
      EACH_BLOCK_TYPE(CASE_OF_TYPE)
#undef CASE_OF_TYPE
      default: byte_span(&tile, packed, isOnce, rowFrom, rowTo, from, to); break;
    }
  }
  finish_outputs(t, (size_t)panel * PANEL + 16 * (size_t)from, to - from, rowTo - rowFrom, out, outStride);
}
