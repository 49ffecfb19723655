#include "loras.h"
#include <stdlib.h>
#include <string.h>
#include "model.h"
#include "numbers.h"

enum { LORA_BYTES = 8 << 20 };

/** A lora in the making. */
typedef struct {
  Random *random;
  uint8_t *bytes;
  size_t size;
  int32_t format;
} Making;

/** Adds elements of about this magnitude. @returns their offset in units of 64 bytes */
static int32_t add_elements(Making *making, size_t count, int32_t format, float size) {
  size_t at = (making->size + 63) / 64 * 64, each = format == LORA_FLOAT ? 4 : format == LORA_HALF ? 2 : 1;
  making->size = at + count * each;
  if (making->size > LORA_BYTES) abort();
  for (size_t i = 0; i < count; i++) {
    float value = random_float(making->random, size);
    uint16_t half = half_of(value);
    if (format == LORA_FLOAT) memcpy(making->bytes + at + i * 4, &value, 4);
    else if (format == LORA_HALF) memcpy(making->bytes + at + i * 2, &half, 2);
    else making->bytes[at + i] = (uint8_t)random_bits(making->random);
  }
  return (int32_t)(at / 64);
}

/** Sets the factors of outputs that fill up the last panel to zero. */
static void clear_padding(Making *making, int32_t raise, int32_t numOut, int32_t rank) {
  int32_t padded = (numOut + PANEL - 1) / PANEL * PANEL, isInt8 = making->format == LORA_INT8;
  size_t each = making->format == LORA_FLOAT ? 4 : making->format == LORA_HALF ? 2 : 1;
  for (int32_t out = numOut; out < padded; out++)
    for (int32_t k = 0; k < rank; k++) {
      size_t vector = (size_t)(out / 16) * (size_t)rank * 16, lane = (size_t)(out % 16);
      size_t at = isInt8 ? vector + (size_t)(k / 4) * 64 + lane * 4 + (size_t)(k % 4) : vector + (size_t)k * 16 + lane;
      memset(making->bytes + (size_t)raise * 64 + at * each, isInt8 ? 128 : 0, each);
    }
}

static LoraEntry make_entry(Making *making, const TensorDescription *tensor, int32_t isOften) {
  if (!one_in(making->random, isOften ? 2 : 4)) return (LoraEntry){.rank = 0};
  int32_t rank = 16 * (one_in(making->random, 8) ? random_in(making->random, 1, 16) : random_in(making->random, 1, 2));
  size_t panels = (size_t)(tensor->numOut + PANEL - 1) / PANEL;
  // Loras about as large as outputs, and bytes as large as floats.
  float size = making->format == LORA_INT8 ? 1.0f / 128 / 128 : 1;
  LoraEntry entry = {.rank = rank};
  size_t numIn = (size_t)(making->format == LORA_INT8 ? (tensor->numIn + GROUP - 1) / GROUP * GROUP : tensor->numIn);
  entry.lower = add_elements(making, numIn * (size_t)rank, making->format, 1.0f / __builtin_sqrtf((float)tensor->numIn));
  entry.raise = add_elements(making, panels * PANEL * (size_t)rank, making->format, 1.0f / __builtin_sqrtf((float)rank));
  clear_padding(making, entry.raise, tensor->numOut, rank);
  entry.scales = add_elements(making, (size_t)rank, LORA_FLOAT, size);
  return entry;
}

uint8_t *make_lora(Random *random, const ModelDescription *model, const LayerDescription *layers, const TensorDescription *tensors, size_t *bytes) {
  size_t numEntries = (size_t)model->numLayers * LORA_PRODUCTS + 1, headBytes = sizeof(LoraDescription) + numEntries * sizeof(LoraEntry);
  Making making = {random, calloc(1, LORA_BYTES), headBytes, random_in(random, LORA_FLOAT, LORA_INT8)};
  LoraEntry *entries = calloc(numEntries, sizeof *entries);
  if (!making.bytes || !entries) abort();
  int32_t isOften = one_in(random, 2);
  for (size_t i = 0; i < numEntries; i++) {
    int32_t tensor = model->head;
    if (i + 1 < numEntries) {
      const LayerDescription *d = &layers[i / LORA_PRODUCTS];
      const int32_t indices[LORA_PRODUCTS] = {d->queryLow != -1 ? -1 : d->query, d->key, d->value, d->attentionOutput, d->gate, d->up, d->down};
      tensor = indices[i % LORA_PRODUCTS];
    }
    if (tensor >= 0) entries[i] = make_entry(&making, &tensors[tensor], isOften);
  }
  LoraDescription head = {LORA_MAGIC, LORA_VERSION, model->numLayers, making.format};
  memcpy(making.bytes, &head, sizeof head);
  memcpy(making.bytes + sizeof head, entries, numEntries * sizeof *entries);
  uint8_t *lora = aligned_copy(making.bytes, making.size);
  *bytes = making.size;
  free(entries);
  free(making.bytes);
  return lora;
}
