#include "tensors.h"
#include "blocks.h"
#include <stdlib.h>
#include <string.h>

/** Zeroed bytes from a multiple of 64 on. @returns their place */
static size_t add_bytes(Pack *pack, size_t bytes) {
  size_t at = (pack->size + 63) / 64 * 64, end = at + bytes;
  if (end > pack->room) {
    pack->room = 2 * end;
    pack->bytes = realloc(pack->bytes, pack->room);
    if (!pack->bytes) abort();
  }
  memset(pack->bytes + pack->size, 0, end - pack->size);
  pack->size = end;
  return at;
}

static void put_float(Pack *pack, size_t at, float value) { memcpy(pack->bytes + at, &value, 4); }

/** One float for each output, whole panels. @returns their offset in units of 64 bytes */
static int32_t add_outputs(Pack *pack, Random *random, int32_t numOut, float size) {
  size_t at = add_bytes(pack, (size_t)(numOut + PANEL - 1) / PANEL * PANEL * 4);
  for (int32_t out = 0; out < numOut; out++) put_float(pack, at + (size_t)out * 4, random_float(random, size));
  return (int32_t)(at / 64);
}

/** Writes a half of magnitude below 2^-5. */
static void put_small_half(uint8_t *p, Random *random) {
  uint16_t half = (uint16_t)((random_bits(random) & 0x83ff) | (uint64_t)random_in(random, 4, 9) << 10);
  memcpy(p, &half, 2);
}

/** Writes the upper bits of a float. */
static void put_bfloat(uint8_t *p, Random *random, float size) {
  float value = random_float(random, size);
  memcpy(p, (uint8_t *)&value + 2, 2);
}

static void fill_table(Pack *pack, Random *random, size_t at, int32_t count, Format format) {
  for (int32_t i = 0; i < count; i++) {
    // Halves of magnitude below 1: any sign and fraction, exponents from 2^-8 to 2^-1.
    uint16_t half = (uint16_t)((random_bits(random) & 0x83ff) | (uint64_t)random_in(random, 7, 14) << 10);
    if (format == FORMAT_HALF_TABLE) memcpy(pack->bytes + at + (size_t)i * 2, &half, 2);
    else put_float(pack, at + (size_t)i * 4, random_float(random, 1));
  }
}

static void fill_weights(Pack *pack, Random *random, const TensorDescription *t, size_t at, size_t panelBytes) {
  // About as large as makes outputs as large as inputs.
  float size = 2.0f / __builtin_sqrtf((float)t->numIn);
  int32_t wholeOut = (t->numOut + PANEL - 1) / PANEL * PANEL, wholeIn = (t->numIn + GROUP - 1) / GROUP * GROUP;
  for (int32_t out = 0; out < wholeOut; out++)
    for (int32_t in = 0; in < (t->format == FORMAT_INT8 ? wholeIn : t->numIn); in++) {
      size_t panel = at + (size_t)(out / PANEL) * panelBytes, column = (size_t)(out % PANEL);
      int isReal = out < t->numOut && in < t->numIn;
      if (t->format == FORMAT_FLOAT && isReal) put_float(pack, panel + ((size_t)in * PANEL + column) * 4, random_float(random, size));
      if (t->format == FORMAT_HALF && isReal) put_small_half(pack->bytes + panel + ((size_t)in * PANEL + column) * 2, random);
      if (t->format == FORMAT_BFLOAT && isReal) put_bfloat(pack->bytes + panel + ((size_t)in * PANEL + column) * 2, random, size);
      if (t->format == FORMAT_INT8) pack->bytes[panel + (size_t)in / 4 * 256 + column * 4 + (size_t)in % 4] = isReal ? (uint8_t)random_bits(random) : 128;
    }
}

/** Zeroes elements of outputs `[from, 64)` in rows of 64. */
static void clear_outputs(uint8_t *rows, size_t numBytes, size_t elementBytes, size_t from) {
  for (size_t at = 0; at < numBytes; at += PANEL * elementBytes) memset(rows + at + from * elementBytes, 0, (PANEL - from) * elementBytes);
}

/** Fills a panel of blocks: any codes and scales of bytes, small scales of other types, zeros for outputs that are none. */
static void fill_blocks(uint8_t *panel, Random *random, BlockType t, int32_t numIn, size_t numReal) {
  float size = 2.0f / __builtin_sqrtf((float)numIn) / (float)(has_bytes(t) ? 128 : 8);
  int numGroups = (numIn + GROUP - 1) / GROUP;
  for (int g = 0; g < numGroups; g++) {
    const uint8_t *end;
    uint8_t *group = panel + (group_at(t, panel, g, &end) - panel), *scales = group + plane_bytes(t), *factors = panel + (end - panel);
    for (uint8_t *byte = group; byte < group + group_bytes(t); byte++) *byte = (uint8_t)random_bits(random);
    int numScales = scale_bytes(t) * (1 + t.hasMinimums);
    for (int i = 0; i < numScales / 4 && t.scale == SCALE_FLOAT; i++) {
      float scale = random_float(random, size);
      memcpy(scales + 4 * i, &scale, 4);
    }
    for (int i = 0; i < numScales && t.scale == SCALE_POWER; i++) scales[i] = (uint8_t)random_in(random, 118, 124);
    for (int i = 0; i < numScales / 2 && t.scale == SCALE_HALF; i++) put_small_half(scales + 2 * i, random);
    for (int i = 0; i < PANEL * (1 + t.hasMinimums) && has_factors(t) && g % SPAN_GROUPS == 0; i++) put_small_half(factors + 2 * i, random);
    clear_outputs(group, (size_t)plane_bytes(t), 4, numReal);
    size_t ofScales = (size_t)(group_bytes(t) - plane_bytes(t));
    clear_outputs(scales, ofScales, t.scale == SCALE_FLOAT ? 4 : t.scale == SCALE_HALF ? 2 : 1, numReal);
    if (has_factors(t)) clear_outputs(factors, 2 * PANEL * (size_t)(1 + t.hasMinimums), 2, numReal);
  }
}

int32_t add_weights(Pack *pack, Random *random, Format format, int32_t numOut, int32_t numIn) {
  if (pack->numTensors == MOST_TENSORS) abort();
  int type = (int)format - FORMAT_BLOCKS;
  // Rows of other lengths than whole blocks have no such format.
  if (type >= 0 && panel_bytes(BLOCK_TYPES[type], numIn) == 0) format = FORMAT_INT8, type = -1;
  TensorDescription t = {.format = format, .numOut = numOut, .numIn = numIn, .scales = -1, .bias = -1};
  size_t panels = (size_t)(numOut + PANEL - 1) / PANEL, groups = (size_t)(numIn + GROUP - 1) / GROUP;
  size_t panelBytes = type >= 0 ? panel_bytes(BLOCK_TYPES[type], numIn) : groups * GROUP * PANEL;
  if (reads_floats(format)) panelBytes = (size_t)numIn * PANEL * (format == FORMAT_FLOAT ? 4 : 2);
  size_t bytes = panels * panelBytes;
  if (format < FORMAT_FLOAT) bytes = (size_t)numOut * (size_t)numIn * (format == FORMAT_HALF_TABLE ? 2 : 4);
  size_t at = add_bytes(pack, bytes);
  t.weights = (int32_t)(at / 64);
  if (format < FORMAT_FLOAT) fill_table(pack, random, at, numOut * numIn, format);
  else if (type < 0) fill_weights(pack, random, &t, at, panelBytes);
  else for (size_t panel = 0; panel < panels; panel++) {
      size_t numLeft = (size_t)numOut - panel * PANEL;
      fill_blocks(pack->bytes + at + panel * panelBytes, random, BLOCK_TYPES[type], numIn, numLeft < PANEL ? numLeft : PANEL);
    }
  if (format == FORMAT_INT8) t.scales = add_outputs(pack, random, numOut, 2.0f / 128 / __builtin_sqrtf((float)numIn));
  if (format >= FORMAT_FLOAT && one_in(random, 3)) t.bias = add_outputs(pack, random, numOut, 0.5f);
  pack->tensors[pack->numTensors] = t;
  return pack->numTensors++;
}

int32_t add_norm(Pack *pack, Random *random, int32_t size, int isNeeded) {
  if (!isNeeded && one_in(random, 2)) return -1;
  if (pack->numTensors == MOST_TENSORS) abort();
  int32_t padded = (size + PANEL - 1) / PANEL * PANEL, numRows = random_in(random, 1, 2);
  pack->tensors[pack->numTensors] =
      (TensorDescription){.numOut = numRows, .numIn = padded, .weights = add_outputs(pack, random, size, 1.5f), .scales = -1, .bias = -1};
  // Whole panels of floats are whole units of 64 bytes, so the second row follows the first.
  if (numRows == 2) add_outputs(pack, random, size, 0.5f);
  return pack->numTensors++;
}
