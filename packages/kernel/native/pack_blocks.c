// Packs blocks of model files, without rounding anything: codes and scales only change their places. Sources of the
// files' layouts: block_* in ggml-common.h and dequantize_row_* in ggml-quants.c of llama.cpp.

#include "pack_blocks.h"
#include "blocks.h"
#include "memory.h"

enum { MOST_GROUPS = SPAN_GROUPS, QUADS = GROUP / 4 };

/** A block of a file: codes by four inputs, then what their scales are made of. */
typedef struct {
  uint32_t codes[MOST_GROUPS][QUADS];
  /** Bytes of scales and of minimums, or a half's bits, in the order of the blocks that have one. */
  uint8_t scales[2 * MOST_GROUPS], minimums[2 * MOST_GROUPS];
  uint16_t factor, minimumFactor;
} Block;

static uint32_t word_at(const uint8_t *p) { uint32_t word; memcpy(&word, p, 4); return word; }
static uint16_t half_at(const uint8_t *p) { uint16_t half; memcpy(&half, p, 2); return half; }

/** Makes bytes of 0 or 1 of four bits. */
static uint32_t spread(uint32_t bits) { return (bits & 15) * 0x00204081u & 0x01010101u; }

/** Reads 32 nibbles: input i in the low half of byte i, input 16 + i in the high half. */
INLINE void read_nibbles(const uint8_t *p, uint32_t *codes) {
  for (int k = 0; k < 4; k++) {
    uint32_t word = word_at(p + 4 * k);
    codes[k] = word & 0x0f0f0f0fu;
    codes[4 + k] = word >> 4 & 0x0f0f0f0fu;
  }
}

/** Reads blocks of 32: a scale, perhaps a minimum, perhaps fifth bits, then nibbles or bytes. */
INLINE void read_small(BlockType t, const uint8_t *p, Block *block) {
  uint32_t *codes = block->codes[0], fifth = 0;
  block->scales[0] = p[0];
  block->factor = t.scale == SCALE_HALF ? half_at(p) : 0;
  p += t.scale == SCALE_HALF ? 2 : 1;
  if (t.hasMinimums) block->minimumFactor = half_at(p), p += 2;
  if (t.moreBits) fifth = word_at(p), p += 4;
  if (t.bits == 4) read_nibbles(p, codes);
  for (int k = 0; k < QUADS; k++) {
    if (t.bits == 8) codes[k] = word_at(p + 4 * k) ^ 0x80808080u;
    codes[k] |= spread(fifth >> 4 * k) << 4;
  }
}

/** Reads the scales and minimums of Q4_K and Q5_K, of six bits each. */
INLINE void read_six_bits(const uint8_t *p, Block *block) {
  for (int j = 0; j < 4; j++) {
    block->scales[j] = p[j] & 63;
    block->minimums[j] = p[4 + j] & 63;
    block->scales[4 + j] = (uint8_t)((p[8 + j] & 15) | p[j] >> 6 << 4);
    block->minimums[4 + j] = (uint8_t)(p[8 + j] >> 4 | p[4 + j] >> 6 << 4);
  }
}

/** Reads Q4_K and Q5_K: two groups share 32 bytes of nibbles. */
INLINE void read_q45(const uint8_t *p, Block *block, int hasFifth) {
  const uint8_t *fifth = p + 16, *nibbles = p + (hasFifth ? 48 : 16);
  block->factor = half_at(p);
  block->minimumFactor = half_at(p + 2) ^ 0x8000;
  read_six_bits(p + 4, block);
  for (int g = 0; g < 8; g++)
    for (int k = 0; k < QUADS; k++) {
      uint32_t code = word_at(nibbles + g / 2 * 32 + 4 * k) >> 4 * (g % 2) & 0x0f0f0f0fu;
      block->codes[g][k] = hasFifth ? code | (word_at(fifth + 4 * k) >> g & 0x01010101u) << 4 : code;
    }
}

INLINE void read_q6(const uint8_t *p, Block *block) {
  memcpy(block->scales, p + 192, 16);
  block->factor = half_at(p + 208);
  for (int g = 0; g < 8; g++)
    for (int k = 0; k < QUADS; k++) {
      const uint8_t *low = p + g / 4 * 64 + g % 2 * 32 + 4 * k, *high = p + 128 + g / 4 * 32 + 4 * k;
      block->codes[g][k] = (word_at(low) >> 4 * (g % 4 / 2) & 0x0f0f0f0fu) | (word_at(high) >> 2 * (g % 4) & 0x03030303u) << 4;
    }
}

/** Reads two bits of each input: four groups share 32 bytes. */
INLINE void read_pairs(const uint8_t *p, Block *block) {
  for (int g = 0; g < 8; g++)
    for (int k = 0; k < QUADS; k++) block->codes[g][k] = word_at(p + g / 4 * 32 + 4 * k) >> 2 * (g % 4) & 0x03030303u;
}

INLINE void read_q2(const uint8_t *p, Block *block) {
  memcpy(block->scales, p, 16);
  read_pairs(p + 16, block);
  block->factor = half_at(p + 80);
  block->minimumFactor = half_at(p + 82) ^ 0x8000;
}

INLINE void read_q3(const uint8_t *p, Block *block) {
  read_pairs(p + 32, block);
  for (int g = 0; g < 8; g++)
    for (int k = 0; k < QUADS; k++) block->codes[g][k] |= (word_at(p + 4 * k) >> g & 0x01010101u) << 2;
  const uint8_t *scales = p + 96;
  for (int j = 0; j < 16; j++) {
    int low = scales[j % 8] >> (j < 8 ? 0 : 4) & 15, high = scales[8 + j % 4] >> 2 * (j / 4) & 3;
    block->scales[j] = (uint8_t)((low | high << 4) - 32);
  }
  block->factor = half_at(p + 108);
}

INLINE void read_iq4(const uint8_t *p, Block *block) {
  block->factor = half_at(p);
  for (int g = 0; g < 8; g++) {
    int low = p[4 + g / 2] >> 4 * (g % 2) & 15, high = half_at(p + 2) >> 2 * g & 3;
    block->scales[g] = (uint8_t)((low | high << 4) - 32);
    read_nibbles(p + 8 + 16 * g, block->codes[g]);
  }
}

INLINE void read_block(BlockTypeIndex type, const uint8_t *p, Block *block) {
  switch (type) {
    case BLOCK_Q4_K: read_q45(p, block, 0); break;
    case BLOCK_Q5_K: read_q45(p, block, 1); break;
    case BLOCK_Q6_K: read_q6(p, block); break;
    case BLOCK_Q2_K: read_q2(p, block); break;
    case BLOCK_Q3_K: read_q3(p, block); break;
    case BLOCK_IQ4_XS: read_iq4(p, block); break;
    case BLOCK_TQ2_0: read_pairs(p, block), block->factor = half_at(p + 64); break;
    default: read_small(BLOCK_TYPES[type], p, block); break;
  }
}

static void put_word(uint8_t *p, uint32_t word) { memcpy(p, &word, 4); }
static void put_half(uint8_t *p, uint16_t half) { memcpy(p, &half, 2); }

/** Writes a group's planes for one output. */
INLINE void put_codes(BlockType t, const uint32_t *codes, uint8_t *lines) {
  uint8_t *more = lines;
  lines += t.moreBits * LINE_BYTES;
  uint32_t ones = 0;
  for (int k = 0; k < QUADS; k++) {
    if (t.bits == 8) put_word(lines + LINE_BYTES * k, codes[k]);
    if (t.bits == 4 && k < 4) put_word(lines + LINE_BYTES * k, (codes[k] & 0x0f0f0f0fu) | (codes[4 + k] & 0x0f0f0f0fu) << 4);
    ones |= (codes[k] >> t.bits & 0x01010101u) << k;
  }
  for (int half = 0; half < 2; half++) {
    uint32_t low = 0, high = 0;
    for (int j = 0; j < 4; j++) {
      low |= (codes[4 * half + j] & 0x03030303u) << 2 * j;
      high |= (codes[4 * half + j] >> 4 & 0x03030303u) << 2 * j;
    }
    if (t.bits == 2) put_word(lines + LINE_BYTES * half, low);
    if (t.moreBits == 2) put_word(more + LINE_BYTES * half, high);
  }
  if (t.moreBits == 1) put_word(more, ones);
}

/** Writes a block of one output. */
INLINE void put_block(BlockType t, const Block *block, uint8_t *packed, int column) {
  int numGroups = t.values / GROUP, numBlocks = GROUP / t.block;
  for (int g = 0; g < numGroups; g++) {
    uint8_t *group = packed + g * group_bytes(t), *scales = group + plane_bytes(t), *minimums = scales + scale_bytes(t);
    put_codes(t, block->codes[g], group + 4 * column);
    if (t.scale == SCALE_HALF) {
      put_half(scales + 2 * column, block->factor);
      if (t.hasMinimums) put_half(minimums + 2 * column, block->minimumFactor);
      continue;
    }
    for (int b = 0; b < numBlocks && t.scale != SCALE_NONE; b++) {
      scales[b * PANEL + column] = block->scales[g * numBlocks + b];
      if (t.hasMinimums && t.scale != SCALE_NIBBLE) minimums[b * PANEL + column] = block->minimums[g * numBlocks + b];
    }
  }
  if (!has_factors(t)) return;
  uint8_t *factors = packed + SPAN_GROUPS * group_bytes(t) + 2 * column;
  put_half(factors, block->factor);
  if (t.hasMinimums) put_half(factors + 2 * PANEL, block->minimumFactor);
}

/** Writes the numbers of a block. */
INLINE void put_values(BlockType t, const Block *block, float *values) {
  const int numBlocks = GROUP / t.block;
  float factor = float_of(block->factor), minimumFactor = float_of(block->minimumFactor);
  for (int at = 0; at < t.values / t.block; at++) {
    const uint8_t *codes = (const uint8_t *)block->codes[at / numBlocks] + at % numBlocks * t.block;
    const uint8_t *scale = t.scale == SCALE_HALF ? (const uint8_t *)&block->factor : block->scales + at;
    const uint8_t *minimum = t.scale == SCALE_HALF ? (const uint8_t *)&block->minimumFactor : t.scale == SCALE_NIBBLE ? scale : block->minimums + at;
    float times = scale_value(t, scale, factor, 0), plus = t.hasMinimums ? scale_value(t, minimum, minimumFactor, 1) : 0;
    for (int i = 0; i < t.block; i++) {
      int code = t.codes == CODES_PLAIN ? codes[i] : BLOCK_CODES[t.codes][codes[i]];
      float value = times * (float)(code - t.zero);
      *values++ = t.hasMinimums ? value + plus : value;
    }
  }
}

INLINE void read_type(const BlockTypeIndex type, const BlockType t, const uint8_t *row, int32_t from, int32_t count, float *values) {
  if (t.values == 0) return;
  const uint8_t *p = row + (size_t)(from / t.values) * (size_t)t.bytes;
  for (int32_t i = 0; i < count; i += t.values, p += t.bytes) {
    Block block;
    memset(&block, 0, sizeof block);
    read_block(type, p, &block);
    put_values(t, &block, values + i);
  }
}

void read_values(int32_t format, const uint8_t *row, int32_t from, int32_t count, float *values) {
  switch (format - FORMAT_BLOCKS) {
#define CASE_OF_TYPE(name, ...) \
  case BLOCK_##name: read_type(BLOCK_##name, (BlockType){__VA_ARGS__}, row, from, count, values); break;
    EACH_BLOCK_TYPE(CASE_OF_TYPE)
#undef CASE_OF_TYPE
  }
}

size_t block_panel_bytes(int32_t format, int32_t numIn) {
  int32_t type = format - FORMAT_BLOCKS;
  if (type < 0 || type >= NUM_BLOCK_TYPES) return 0;
  BlockType t = BLOCK_TYPES[type];
  return t.values == 0 || numIn % t.values != 0 ? 0 : (size_t)panel_bytes(t, numIn);
}

size_t block_row_bytes(int32_t format, int32_t numIn) {
  BlockType t = BLOCK_TYPES[format - FORMAT_BLOCKS];
  return (size_t)(numIn / t.values) * (size_t)t.bytes;
}

/** Packs rows of one type, which the compiler knows. */
INLINE void pack_type(const BlockTypeIndex type, const BlockType t, const RowsToPack *rows) {
  if (t.values == 0) return;
  size_t rowBytes = block_row_bytes(rows->format, rows->numIn);
  for (int32_t i = 0; i < rows->numIn; i += t.values) {
    const uint8_t *factors;
    uint8_t *packed = rows->out + (group_at(t, rows->out, i / GROUP, &factors) - rows->out);
    for (int32_t row = 0; row < rows->numRows; row++) {
      Block block;
      read_block(type, rows->rows + (size_t)row * rowBytes + (size_t)(i / t.values) * (size_t)t.bytes, &block);
      put_block(t, &block, packed, row);
    }
  }
}

void pack_blocks(const RowsToPack *rows) {
  switch (rows->format - FORMAT_BLOCKS) {
#define CASE_OF_TYPE(name, ...) \
  case BLOCK_##name: pack_type(BLOCK_##name, (BlockType){__VA_ARGS__}, rows); break;
    EACH_BLOCK_TYPE(CASE_OF_TYPE)
#undef CASE_OF_TYPE
  }
}
