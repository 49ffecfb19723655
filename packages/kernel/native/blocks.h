// Types of weights in blocks. A panel's group, 32 inputs of 64 outputs, has planes of bits `[line][64][4]`, the upper
// bits first, then the scales of its blocks, then their minimums: in the order in which a product reads them. Types with
// large blocks have factors of all scales behind eight groups.

#pragma once
#include "memory.h"
#include "numbers.h"
#include "tensor.h"

/** Number types of a block's scale. */
typedef enum {
  /** float32, or half precision. */
  SCALE_FLOAT, SCALE_HALF,
  /** A byte e for `2^(e - 128)`. */
  SCALE_POWER,
  /** A signed byte, or four bits, whose factor has half precision; the minimums have the upper four bits. */
  SCALE_BYTE, SCALE_NIBBLE,
  /** The factor alone. */
  SCALE_NONE,
  /** A scale of each whole output. */
  SCALE_OUTPUT,
} Scale;

/** Values that four bits stand for. */
typedef enum { CODES_PLAIN, CODES_IQ4, CODES_FP4 } Codes;

typedef struct {
  /** Bits of the planes: lower ones of the codes, and upper ones. */
  int8_t bits, moreBits;
  Codes codes;
  /** Code, or value of the table with this number added, that stands for 0. Bytes and CODES_IQ4 have 128. */
  int16_t zero;
  /** Number of inputs that share a scale, 16 or 32. */
  int8_t block;
  Scale scale;
  int8_t hasMinimums;
  /** Blocks of a file: values and bytes; 0 for types that no file has. */
  int16_t values, bytes;
} BlockType;

/** Bytes of a line of a panel: four inputs, or some of their bits, of 64 outputs. */
enum { LINE_BYTES = 4 * PANEL };

/** Number of inputs whose scales share a factor, in groups. */
enum { SPAN_GROUPS = 8 };

/** All types, in the order of their formats from FORMAT_BLOCKS on; `block-types.ts` has the same order. */
#define EACH_BLOCK_TYPE(TYPE) \
  TYPE(INT8_16, 8, 0, CODES_PLAIN, 128, 16, SCALE_FLOAT, 0, 0, 0) \
  TYPE(INT8_32, 8, 0, CODES_PLAIN, 128, 32, SCALE_FLOAT, 0, 0, 0) \
  TYPE(INT4_16, 4, 0, CODES_PLAIN, 8, 16, SCALE_FLOAT, 0, 0, 0) \
  TYPE(INT4_32, 4, 0, CODES_PLAIN, 8, 32, SCALE_FLOAT, 0, 0, 0) \
  TYPE(INT4_MINIMUM_16, 4, 0, CODES_PLAIN, 0, 16, SCALE_FLOAT, 1, 0, 0) \
  TYPE(INT4_MINIMUM_32, 4, 0, CODES_PLAIN, 0, 32, SCALE_FLOAT, 1, 0, 0) \
  TYPE(Q4_0, 4, 0, CODES_PLAIN, 8, 32, SCALE_HALF, 0, 32, 18) \
  TYPE(Q4_1, 4, 0, CODES_PLAIN, 0, 32, SCALE_HALF, 1, 32, 20) \
  TYPE(Q5_0, 4, 1, CODES_PLAIN, 16, 32, SCALE_HALF, 0, 32, 22) \
  TYPE(Q5_1, 4, 1, CODES_PLAIN, 0, 32, SCALE_HALF, 1, 32, 24) \
  TYPE(Q8_0, 8, 0, CODES_PLAIN, 128, 32, SCALE_HALF, 0, 32, 34) \
  TYPE(Q2_K, 2, 0, CODES_PLAIN, 0, 16, SCALE_NIBBLE, 1, 256, 84) \
  TYPE(Q3_K, 2, 1, CODES_PLAIN, 4, 16, SCALE_BYTE, 0, 256, 110) \
  TYPE(Q4_K, 4, 0, CODES_PLAIN, 0, 32, SCALE_BYTE, 1, 256, 144) \
  TYPE(Q5_K, 4, 1, CODES_PLAIN, 0, 32, SCALE_BYTE, 1, 256, 176) \
  TYPE(Q6_K, 4, 2, CODES_PLAIN, 32, 16, SCALE_BYTE, 0, 256, 210) \
  TYPE(IQ4_NL, 4, 0, CODES_IQ4, 128, 32, SCALE_HALF, 0, 32, 18) \
  TYPE(IQ4_XS, 4, 0, CODES_IQ4, 128, 32, SCALE_BYTE, 0, 256, 136) \
  TYPE(MXFP4, 4, 0, CODES_FP4, 12, 32, SCALE_POWER, 0, 32, 17) \
  TYPE(TQ2_0, 2, 0, CODES_PLAIN, 1, 32, SCALE_NONE, 0, 256, 66)

#define FORMAT_OF_TYPE(name, ...) BLOCK_##name,
typedef enum { EACH_BLOCK_TYPE(FORMAT_OF_TYPE) NUM_BLOCK_TYPES } BlockTypeIndex;
#undef FORMAT_OF_TYPE

#define ENTRY_OF_TYPE(name, ...) {__VA_ARGS__},
static const BlockType BLOCK_TYPES[] = {EACH_BLOCK_TYPE(ENTRY_OF_TYPE)};
#undef ENTRY_OF_TYPE

/** Values of four bits, with the type's zero added. */
static const uint8_t BLOCK_CODES[][16] = {
    [CODES_IQ4] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241},
    [CODES_FP4] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0},
};

/** Whether codes need all eight bits. */
static inline int has_bytes(BlockType t) { return t.zero == 128; }
/** Whether eight groups share a factor. */
static inline int has_factors(BlockType t) { return t.scale >= SCALE_BYTE && t.scale <= SCALE_NONE; }
static inline int plane_bytes(BlockType t) { return (t.bits + t.moreBits) * (GROUP * PANEL / 8); }

static inline int scale_bytes(BlockType t) {
  int numBlocks = GROUP / t.block * PANEL;
  switch (t.scale) {
    case SCALE_FLOAT: return 4 * numBlocks;
    case SCALE_HALF: return 2 * numBlocks;
    case SCALE_POWER:
    case SCALE_BYTE:
    case SCALE_NIBBLE: return numBlocks;
    case SCALE_NONE:
    case SCALE_OUTPUT: break;
  }
  return 0;
}

/** Returns the bytes of a panel's group, without factors. */
static inline int group_bytes(BlockType t) {
  return plane_bytes(t) + scale_bytes(t) * (t.hasMinimums && t.scale != SCALE_NIBBLE ? 2 : 1);
}

/** Returns the bytes of eight groups with their factors. */
static inline int span_bytes(BlockType t) { return SPAN_GROUPS * group_bytes(t) + (has_factors(t) ? 2 * PANEL * (1 + t.hasMinimums) : 0); }

/** Returns a block's scale or minimum, which stands in `scale` by itself, or as a nibble of a byte. */
static inline float scale_value(BlockType t, const uint8_t *scale, float factor, int isUpper) {
  uint16_t half;
  float value;
  switch (t.scale) {
    case SCALE_FLOAT: memcpy(&value, scale, 4); return value;
    case SCALE_HALF: memcpy(&half, scale, 2); return float_of(half);
    case SCALE_POWER: return power_of(*scale);
    case SCALE_BYTE: return factor * (float)(int8_t)*scale;
    case SCALE_NIBBLE: return factor * (float)(isUpper ? *scale >> 4 : *scale & 15);
    case SCALE_NONE:
    case SCALE_OUTPUT: break;
  }
  return factor;
}

/** Returns the bytes of a scale; 0 for types whose blocks have none. */
static inline int scale_size(BlockType t) { return scale_bytes(t) * t.block / (GROUP * PANEL); }

/** Returns a group of a panel, and where the factors of its scales are. */
static inline const uint8_t *group_at(BlockType t, const uint8_t *panel, int group, const uint8_t **factors) {
  const uint8_t *span = panel + (size_t)(group / SPAN_GROUPS) * (size_t)span_bytes(t);
  *factors = span + SPAN_GROUPS * group_bytes(t);
  return span + (size_t)(group % SPAN_GROUPS) * (size_t)group_bytes(t);
}

/** Returns the bytes of a panel; 0 when rows of `numIn` inputs are no whole number of blocks. */
static inline uint64_t panel_bytes(BlockType t, int32_t numIn) {
  int32_t numGroups = (numIn + GROUP - 1) / GROUP;
  if (numIn % t.block != 0 || (has_factors(t) && numGroups % SPAN_GROUPS != 0)) return 0;
  return (uint64_t)(numGroups / SPAN_GROUPS) * (uint64_t)span_bytes(t) + (uint64_t)(numGroups % SPAN_GROUPS) * (uint64_t)group_bytes(t);
}
