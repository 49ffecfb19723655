// Damaged files: what is read or written beside its place is found by the sanitizers, so all memory has exact sizes.

#include <stdlib.h>
#include <string.h>
#include "blocks.h"
#include "check.h"
#include "pack_rows.h"
#include "hostile.h"
#include "play.h"

/** Opens a file that may be damaged, and runs requests that may not fit it. */
static void try_file(Random *random, const TestModel *given, const Scenario *scenario) {
  Opened opened;
  TestModel tried = *given, *model = &tried;
  tried.options.streamsExperts = one_in(random, 3);
  if (open_model(model, any_loops(random), one_in(random, 8) ? 2 : 1, &opened)) return;
  uint64_t digest;
  for (int32_t i = 0; i < scenario->numRequests && i < 2; i++) play_request(&opened, &scenario->requests[i], &digest, NULL);
  close_opened(&opened);
}

static void try_word(Random *random, const TestModel *model, const Scenario *scenario, size_t at, int32_t value) {
  int32_t before;
  memcpy(&before, model->file + at, 4);
  memcpy(model->file + at, &value, 4);
  try_file(random, model, scenario);
  memcpy(model->file + at, &before, 4);
}

/** Every number of the descriptions becomes every edge. */
static void damage_descriptions(Random *random, const TestModel *model, const Scenario *scenario) {
  size_t bytes = sizeof(ModelDescription) + (size_t)model->model.numLayers * sizeof(LayerDescription) +
                 (size_t)model->model.numTensors * sizeof(TensorDescription);
  for (size_t at = 0; at < bytes; at += 4) {
    int32_t value;
    memcpy(&value, model->file + at, 4);
    for (int e = 0; e < NUM_EDGES; e++) try_word(random, model, scenario, at, EDGES[e]);
    for (int32_t near = -2; near <= 2; near++) try_word(random, model, scenario, at, (int32_t)((uint32_t)value + (uint32_t)near));
  }
}

/** Some words at once, of descriptions or of weights. */
static void damage_words(Random *random, const TestModel *model, const Scenario *scenario) {
  TestModel damaged = *model;
  damaged.file = aligned_copy(model->file, model->bytes);
  int32_t count = random_in(random, 1, 6), most = one_in(random, 2) ? 200 : (int32_t)(model->bytes / 4) - 1;
  for (int32_t i = 0; i < count; i++) {
    size_t at = (size_t)random_in(random, 0, most) * 4;
    if (at + 4 > model->bytes) continue;
    int32_t value;
    memcpy(&value, damaged.file + at, 4);
    value = edge_near(random, value);
    memcpy(damaged.file + at, &value, 4);
  }
  try_file(random, &damaged, scenario);
  free(damaged.file);
}

static void cut(Random *random, const TestModel *model, const Scenario *scenario) {
  TestModel shorter = *model;
  shorter.bytes = (size_t)random_in(random, 0, one_in(random, 2) ? 2048 : (int32_t)model->bytes - 1) % model->bytes;
  shorter.file = aligned_copy(model->file, shorter.bytes);
  try_file(random, &shorter, scenario);
  free(shorter.file);
}

/** Damaged or shorter loras: every number of their table becomes some edge. */
static void damage_lora(Random *random, const TestModel *model, const Scenario *scenario) {
  if (model->numLoras == 0) return;
  TestModel damaged = *model;
  int32_t slot = random_in(random, 0, model->numLoras - 1), count = random_in(random, 0, 3);
  size_t table = sizeof(LoraDescription) + ((size_t)model->model.numLayers * LORA_PRODUCTS + 1) * sizeof(LoraEntry);
  if (one_in(random, 4)) damaged.loraBytes[slot] = (size_t)random_in(random, 0, (int32_t)model->loraBytes[slot] - 1);
  uint8_t *bytes = damaged.loras[slot] = aligned_copy(model->loras[slot], damaged.loraBytes[slot]);
  for (int32_t i = 0; i < count; i++) {
    size_t at = (size_t)random_in(random, 0, (int32_t)(table / 4) - 1) * 4;
    if (at + 4 > damaged.loraBytes[slot]) continue;
    int32_t value;
    memcpy(&value, bytes + at, 4);
    value = edge_near(random, value);
    memcpy(bytes + at, &value, 4);
  }
  try_file(random, &damaged, scenario);
  free(bytes);
}

static void change_options(Random *random, const TestModel *model, const Scenario *scenario) {
  TestModel changed = *model;
  int32_t *fields[] = {&changed.numPages, &changed.type, &changed.options.maxRows, &changed.options.maxPositions};
  int32_t *field = fields[random_in(random, 0, 3)];
  *field = edge_near(random, *field);
  // Angles were made for so many positions.
  if (changed.options.maxPositions > model->options.maxPositions) return;
  try_file(random, &changed, scenario);
}

/** Packs rows of any bytes; sanitizers see what is read or written beside them. */
static void pack_any(Random *random) {
  static const Format FLOATS[] = {FORMAT_FLOAT, FORMAT_HALF, FORMAT_BFLOAT};
  for (int32_t format = FORMAT_FLOAT; format < FORMAT_BLOCKS + NUM_BLOCK_TYPES; format++) {
    int isChanged = format == FORMAT_FLOAT || format == FORMAT_INT8;
    int32_t numIn = isChanged ? random_in(random, 1, 400) : 32 * random_in(random, 1, 24), numRows = random_in(random, 1, 2 * PANEL);
    RowsToPack rows = {.format = format, .source = isChanged ? (int32_t)FLOATS[random_in(random, 0, 2)] : format, .numIn = numIn};
    size_t panelBytes = packed_panel_bytes(&rows);
    if (panelBytes == 0) continue;
    size_t length = (size_t)numRows * packed_row_bytes(&rows), numPanels = (size_t)(numRows + PANEL - 1) / PANEL;
    uint8_t *bytes = malloc(length), *panels = malloc(numPanels * panelBytes);
    float *inputs = isChanged && one_in(random, 2) ? malloc((size_t)numIn * 4) : NULL, *scales = malloc((size_t)numRows * 4);
    if (!bytes || !panels || !scales) abort();
    for (size_t i = 0; i < length; i++) bytes[i] = (uint8_t)random_bits(random);
    for (int32_t i = 0; inputs && i < numIn; i++) inputs[i] = random_float(random, 2);
    rows.rows = bytes, rows.inputs = inputs, rows.out = panels, rows.scales = scales;
    if (!count_rows(&rows, length) || rows.numRows != numRows || count_rows(&(RowsToPack){.format = format}, length)) abort();
    for (int32_t panel = 0; panel < (int32_t)numPanels; panel++) pack_panel(&rows, panel);
    free(bytes);
    free(panels);
    free(inputs);
    free(scales);
  }
}

void check_files(uint64_t seed, int32_t numModels) {
  int isDone = 0;
  for (int32_t m = 0; m < numModels; m++) {
    Random random = {seed + (uint64_t)m * 0x100000001u};
    TestModel model = make_model(&random);
    Scenario scenario = make_scenario(&random, &model);
    int isSmall = model.model.numLayers == 1 && model.options.maxRows <= 4;
    if (isSmall && !isDone++) damage_descriptions(&random, &model, &scenario);
    for (int i = 0; i < 100; i++) damage_words(&random, &model, &scenario);
    for (int i = 0; i < 60; i++) cut(&random, &model, &scenario);
    for (int i = 0; i < 100; i++) damage_lora(&random, &model, &scenario);
    for (int i = 0; i < 40; i++) change_options(&random, &model, &scenario);
    for (int i = 0; i < 20; i++) pack_any(&random);
    free_scenario(&scenario);
    free_model(&model);
  }
}
