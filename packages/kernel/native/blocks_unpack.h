// Codes and scales of blocks, vector by vector, and whole spans of them.

#include "blocks.h"

/** A panel's weights of a span: bytes `[group][8][64][4]`, then scales and minimums `[group][block][64]`. */
typedef struct {
  _Alignas(64) uint8_t codes[SPAN_GROUPS * GROUP * PANEL];
  float scales[SPAN_GROUPS * 2 * PANEL], minimums[SPAN_GROUPS * 2 * PANEL];
} Span;

/**
 * Returns the codes of inputs `[4 * k, 4 * k + 4)` of a group for a vector of outputs.
 * @param more - the vector's lines of upper bits
 */
INLINE Bytes codes_of(const BlockType t, const uint8_t *group, const Bytes *more, const int k, const int vector) {
  const uint8_t *lines = group + t.moreBits * LINE_BYTES + 64 * vector;
  if (t.bits == 8) return load_bytes(lines + LINE_BYTES * k);
  const int line = t.bits == 4 ? k % 4 : k / 4, by = t.bits == 4 ? k / 4 * -4 : k % 4 * -2;
  Bytes codes = moved(load_bytes(lines + LINE_BYTES * line), by, (1 << t.bits) - 1);
  if (t.moreBits == 1) codes = either(codes, moved(more[0], t.bits - k, 1 << t.bits));
  if (t.moreBits == 2) codes = either(codes, moved(more[k / 4], 4 - 2 * (k % 4), 0x30));
  return t.codes == CODES_PLAIN ? codes : looked_up(codes, BLOCK_CODES[t.codes]);
}

/** Loads the lines of upper bits of V vectors. */
INLINE void load_more(const BlockType t, const uint8_t *group, const int V, const int vector, Bytes more[4][2]) {
  UNROLLED(line, t.moreBits) UNROLLED(v, V) more[v][line] = load_bytes(group + LINE_BYTES * line + 64 * (vector + v));
}

/** Returns the four inputs whose turn is `step`: those of one line follow each other, so that lines are read in their order. */
INLINE int quad_at(const BlockType t, const int step) { return t.bits == 4 ? step / 2 + step % 2 * 4 : step; }

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

/** Whether products read bytes and scales as they are packed. */
INLINE int are_operands(const BlockType t) { return QUADS_ARE_UNSIGNED && t.bits == 8 && t.scale == SCALE_FLOAT; }

/** Unpacks V vectors of a group, number `g` of its span. */
INLINE void unpack_group(const BlockType t, const uint8_t *group, const uint8_t *factors, int g, const int V, int vector, Span *span) {
  uint8_t *codes = span->codes + g * GROUP * PANEL + 64 * vector;
  Bytes more[4][2];
  load_more(t, group, V, vector, more);
#pragma clang loop unroll(full)
  for (int step = 0; step < 8; step++) {
    const int k = quad_at(t, step);
    UNROLLED(v, V) {
      Bytes line = codes_of(t, group, more[v], k, vector + v);
      store_bytes(codes + LINE_BYTES * k + 64 * v, has_bytes(t) ? unpacked(line) : line);
    }
  }
  UNROLLED(b, GROUP / t.block) UNROLLED(v, V) {
    size_t at = (size_t)(g * GROUP / t.block + b) * PANEL + 16 * (size_t)(vector + v);
    store(span->scales + at, scales_of(t, group, factors, b, vector + v, 0));
    if (t.hasMinimums) store(span->minimums + at, scales_of(t, group, factors, b, vector + v, 1));
  }
}

/** Unpacks groups `[0, numGroups)` of a span for vectors `[from, to)` of a panel. */
INLINE void unpack_span(const BlockType t, const uint8_t *packed, int numGroups, int from, int to, Span *span) {
  const uint8_t *factors = packed + SPAN_GROUPS * group_bytes(t);
  for (int g = 0; g < numGroups; g++) {
    const uint8_t *group = packed + g * group_bytes(t);
    read_ahead(group, group_bytes(t));
    if (to - from == 4) unpack_group(t, group, factors, g, 4, 0, span);
    else for (int v = from; v < to; v++) unpack_group(t, group, factors, g, 1, v, span);
  }
}

/** Does the same for FORMAT_INT8, where the packed bytes are no operands. @returns the bytes of the first vector */
INLINE const uint8_t *unpack_bytes(const uint8_t *packed, int numGroups, int from, int to, Span *span) {
  if (QUADS_ARE_UNSIGNED) return packed + 64 * from;
  for (int line = 0; line < 8 * numGroups; line++)
    for (int v = 4 * line + from; v < 4 * line + to; v++) store_bytes(span->codes + 64 * v, unpacked(load_bytes(packed + 64 * v)));
  return span->codes + 64 * from;
}
