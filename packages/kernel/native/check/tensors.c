#include "tensors.h"
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

static void fill_table(Pack *pack, Random *random, size_t at, int32_t count, Format format) {
  for (int32_t i = 0; i < count; i++) {
    // Halves of magnitude below 1: any sign and fraction, exponents from 2^-8 to 2^-1.
    uint16_t half = (uint16_t)((random_bits(random) & 0x83ff) | (uint64_t)random_in(random, 7, 14) << 10);
    if (format == FORMAT_HALF_TABLE) memcpy(pack->bytes + at + (size_t)i * 2, &half, 2);
    else put_float(pack, at + (size_t)i * 4, random_float(random, 1));
  }
}

/** Places of an output's input in its panel: of the weight, and of the scale of its block. */
typedef struct {
  size_t weight, scale, minimum;
} Place;

static Place place_of(const TensorDescription *t, size_t at, size_t panelBytes, size_t groupBytes, int32_t out, int32_t in) {
  size_t panel = at + (size_t)(out / PANEL) * panelBytes, column = (size_t)(out % PANEL), inGroup = (size_t)(in % GROUP);
  size_t group = panel + (size_t)(in / GROUP) * groupBytes;
  if (t->format == FORMAT_FLOAT) return (Place){.weight = panel + ((size_t)in * PANEL + column) * 4};
  int isInt4 = t->format == FORMAT_INT4_BLOCKS;
  size_t weights = isInt4 ? GROUP / 2 * PANEL : GROUP * PANEL, byte = isInt4 ? inGroup % 16 : inGroup;
  size_t scale = group + weights + (inGroup / (size_t)t->block * PANEL + column) * 4;
  return (Place){group + byte / 4 * 256 + column * 4 + byte % 4, scale, scale + (size_t)(GROUP / t->block) * PANEL * 4};
}

static void fill_weights(Pack *pack, Random *random, const TensorDescription *t, size_t at, size_t panelBytes, size_t groupBytes) {
  // About as large as makes outputs as large as inputs.
  float size = 2.0f / __builtin_sqrtf((float)t->numIn);
  int32_t wholeOut = (t->numOut + PANEL - 1) / PANEL * PANEL, wholeIn = (t->numIn + GROUP - 1) / GROUP * GROUP;
  for (int32_t out = 0; out < wholeOut; out++)
    for (int32_t in = 0; in < (t->format == FORMAT_FLOAT ? t->numIn : wholeIn); in++) {
      Place place = place_of(t, at, panelBytes, groupBytes, out, in);
      int isReal = out < t->numOut && in < t->numIn;
      uint8_t *byte = pack->bytes + place.weight;
      if (t->format == FORMAT_FLOAT) {
        if (isReal) put_float(pack, place.weight, random_float(random, size));
        continue;
      }
      if (t->format == FORMAT_INT4_BLOCKS) {
        // With minimums there is no nibble of value 0: what fills up is multiplied by inputs of 0.
        uint8_t nibble = isReal ? (uint8_t)(random_bits(random) & 15) : t->hasMinimums ? 0 : 8;
        *byte |= (uint8_t)(in % GROUP < 16 ? nibble : nibble << 4);
      } else {
        *byte = isReal ? (uint8_t)random_bits(random) : 128;
      }
      if (t->format == FORMAT_INT8 || in % t->block != 0 || out >= t->numOut) continue;
      put_float(pack, place.scale, random_float(random, size / (t->format == FORMAT_INT4_BLOCKS ? 8 : 128)));
      if (t->format == FORMAT_INT4_BLOCKS && t->hasMinimums) put_float(pack, place.minimum, random_float(random, size));
    }
}

int32_t add_weights(Pack *pack, Random *random, Format format, int32_t numOut, int32_t numIn) {
  if (pack->numTensors == MOST_TENSORS) abort();
  TensorDescription t = {.format = format, .numOut = numOut, .numIn = numIn, .block = one_in(random, 2) ? 16 : 32, .scales = -1, .bias = -1};
  t.hasMinimums = format == FORMAT_INT4_BLOCKS && one_in(random, 2);
  size_t panels = (size_t)(numOut + PANEL - 1) / PANEL, groups = (size_t)(numIn + GROUP - 1) / GROUP;
  size_t blocks = (size_t)(GROUP / t.block) * PANEL * 4, groupBytes = GROUP * PANEL;
  if (format == FORMAT_INT8_BLOCKS) groupBytes += blocks;
  if (format == FORMAT_INT4_BLOCKS) groupBytes = GROUP / 2 * PANEL + blocks * (t.hasMinimums ? 2 : 1);
  size_t panelBytes = format == FORMAT_FLOAT ? (size_t)numIn * PANEL * 4 : groups * groupBytes, bytes = panels * panelBytes;
  if (format < FORMAT_FLOAT) bytes = (size_t)numOut * (size_t)numIn * (format == FORMAT_HALF_TABLE ? 2 : 4);
  size_t at = add_bytes(pack, bytes);
  t.weights = (int32_t)(at / 64);
  if (format < FORMAT_FLOAT) fill_table(pack, random, at, numOut * numIn, format);
  else fill_weights(pack, random, &t, at, panelBytes, groupBytes);
  if (format == FORMAT_INT8) t.scales = add_outputs(pack, random, numOut, 2.0f / 128 / __builtin_sqrtf((float)numIn));
  if (format >= FORMAT_FLOAT && one_in(random, 3)) t.bias = add_outputs(pack, random, numOut, 0.5f);
  pack->tensors[pack->numTensors] = t;
  return pack->numTensors++;
}

int32_t add_norm(Pack *pack, Random *random, int32_t size, int isNeeded) {
  if (!isNeeded && one_in(random, 2)) return -1;
  if (pack->numTensors == MOST_TENSORS) abort();
  int32_t padded = (size + PANEL - 1) / PANEL * PANEL;
  pack->tensors[pack->numTensors] =
      (TensorDescription){.numOut = 1, .numIn = padded, .weights = add_outputs(pack, random, size, 1.5f), .scales = -1, .bias = -1};
  return pack->numTensors++;
}
