// Requests that cannot be.

#include <stdlib.h>
#include <string.h>
#include "check.h"
#include "hostile.h"
#include "play.h"
#include "request.h"
#include "streamed.h"

/** A request of which something is changed: numbers, its length or the room for results. */
static void try_request(Random *random, const Opened *opened, const Request *valid) {
  Request request = *valid;
  // Room that a request does not need all of is used for longer ones.
  size_t room = valid->length + 8;
  int32_t *numbers = calloc(room, 4);
  if (!numbers) abort();
  memcpy(numbers, valid->numbers, valid->length * 4);
  int32_t count = random_in(random, 1, 3);
  for (int32_t i = 0; i < count; i++) {
    int32_t at = one_in(random, 3) ? random_in(random, 0, 5) : random_in(random, 0, (int32_t)valid->length - 1);
    numbers[at] = edge_near(random, numbers[at]);
  }
  if (one_in(random, 4)) request.length = (size_t)random_in(random, 0, (int32_t)room);
  size_t *rooms[] = {&request.numCandidateIds, &request.numLogits, &request.numSums, &request.numFullLogits};
  size_t *changed = rooms[random_in(random, 0, 3)];
  if (one_in(random, 4) && *changed > 0) *changed -= (size_t)random_in(random, 1, (int32_t)(*changed < 3 ? *changed : 3));
  request.numbers = malloc(request.length * 4);
  if (!request.numbers) abort();
  memcpy(request.numbers, numbers, request.length * 4);
  uint64_t digest;
  play_request(opened, &request, &digest, NULL);
  free(request.numbers);
  free(numbers);
}

/** Places or removes experts of a layer, or of none. */
static void place_some(Random *random, Kernel *kernel, int32_t layer) {
  int32_t isThere = layer >= 0 && layer < kernel->model.numLayers && kernel->layers[layer].experts;
  int32_t count = isThere ? kernel->layers[layer].numExperts : 1, oneIn = random_in(random, 1, 8);
  for (int32_t e = 0; e < count; e++) {
    const Tensor *filed = isThere ? &kernel->filed[kernel->layers[layer].description.firstExpert + 3 * e] : NULL;
    int32_t isRemoved = !isThere || (oneIn > 1 && one_in(random, oneIn));
    kernel_place(kernel, layer, e, isRemoved ? NULL : filed->weights, isRemoved ? 0 : unit_bytes(filed));
  }
}

/** Takes memory away from a step that has begun: its request, its pages, or room for its results. */
static void take_away(Random *random, const Opened *opened, int32_t *numbers, size_t length, const Results *results) {
  Kernel *kernel = opened->kernel;
  Results less = *results;
  uint8_t *memory = opened->pages.memory;
  switch (random_in(random, 0, 2)) {
    case 0:
      for (size_t i = 0; i < length; i++) numbers[i] = edge_near(random, numbers[i]);
      break;
    case 1:
      ((Opened *)opened)->pages.memory = NULL;
      if (!kernel_run_layers(kernel, kernel->toLayer, kernel->toLayer + 1) || !kernel_route(kernel, kernel->toLayer) ||
          !kernel_feed(kernel, kernel->toLayer) || !kernel_end(kernel))
        wrong("a step went on without its pages");
      ((Opened *)opened)->pages.memory = memory;
      break;
    default:
      if (results->numSums == 0 || !kernel->step) break;
      less.numSums = 0;
      if (!kernel_move_results(kernel, &less) || !kernel_end(kernel)) wrong("a step went on without room for its results");
      break;
  }
}

/** Removes a lora and places it again, or one that no row has: a step that has begun goes on. */
static void move_lora(Random *random, Kernel *kernel, const TestModel *model) {
  if (model->numLoras == 0) return;
  const Step *step = kernel->step;
  if (kernel_place_lora(kernel, TEST_LORAS, model->loras[0], model->loraBytes[0])) wrong("a lora was refused in another slot");
  if (kernel_place_lora(kernel, TEST_LORAS, NULL, 0) || kernel->step != step) wrong("a step ended with a lora that no row has");
  int32_t slot = random_in(random, 0, model->numLoras - 1);
  if (one_in(random, 2)) return;
  kernel_place_lora(kernel, slot, NULL, 0);
  kernel_place_lora(kernel, slot, model->loras[slot], model->loraBytes[slot]);
}

/** Writes and reads rows inside a step, with room that fits in one of two cases. */
static void try_states(Random *random, Kernel *kernel) {
  States states = (States)random_in(random, STATES_STREAM, STATES_GATED);
  const Layer *layer = &kernel->layers[kernel->toLayer > 0 ? kernel->toLayer - 1 : 0];
  int32_t width = states == STATES_GATED && layer->down ? layer->down->numIn : kernel->model.hiddenSize;
  size_t length = (size_t)(kernel->begun.numRows * width + (one_in(random, 2) ? 0 : random_in(random, -2, 2)));
  if (length > SIZE_MAX / 8) length = 0;
  float *rows = calloc(length, 4);
  if (!rows) abort();
  const char *error = one_in(random, 3) ? kernel_write_stream(kernel, rows, length) : kernel_read_states(kernel, states, rows, length);
  if (!error && length != (size_t)(kernel->begun.numRows * width) && states != STATES_GATED && !kernel->fusion && !kernel->tokenNorm.scales) wrong("rows of another length were taken");
  free(rows);
}

/** Writes what a fusion takes, and reads what taps keep, now and then with one number too few. */
static void try_taps(Random *random, Kernel *kernel) {
  size_t numRows = (size_t)kernel->begun.numRows, hidden = (size_t)kernel->model.hiddenSize;
  size_t numIn = (kernel->fusion && !kernel->stateNorm.scales ? (size_t)kernel->fusion->numIn : hidden) + (kernel->tokenNorm.scales ? hidden : 0);
  size_t length = one_in(random, 2) ? numRows * numIn : numRows * (size_t)kernel->numTaps * hidden;
  if (length > 0 && one_in(random, 4)) length--;
  // With the last layer's rows, sums of squares would be others.
  int32_t layers[2] = {random_in(random, -1, kernel->model.numLayers - 1), random_in(random, -1, kernel->model.numLayers - 1)};
  float *rows = calloc(length + 1, 4);
  if (!rows) abort();
  if (one_in(random, 20)) kernel_tap(kernel, layers, (size_t)random_in(random, 0, 2));
  if (one_in(random, 4)) kernel_read_embeddings(kernel, layers, 2, rows, length < 2 * hidden ? length : 2 * hidden);
  else if (one_in(random, 2)) kernel_write_stream(kernel, rows, length);
  else kernel_read_taps(kernel, rows, length);
  free(rows);
}

/** Begins a valid request and runs parts of it in any order, with experts of which some are missing. */
static void try_parts(Random *random, const Opened *opened, const TestModel *model, const Request *valid) {
  Kernel *kernel = opened->kernel;
  int32_t *numbers = malloc(valid->length * 4);
  if (!numbers) abort();
  memcpy(numbers, valid->numbers, valid->length * 4);
  Results results = {
      .candidateIds = calloc(valid->numCandidateIds, 4),
      .numCandidateIds = valid->numCandidateIds,
      .logits = calloc(valid->numLogits, 4),
      .numLogits = valid->numLogits,
      .sums = calloc(valid->numSums, 8),
      .numSums = valid->numSums,
      .fullLogits = calloc(valid->numFullLogits, 4),
      .numFullLogits = valid->numFullLogits,
  };
  const char *error = kernel_begin_run(kernel, &opened->pages, numbers, valid->length, &results);
  for (int i = 0; i < 40 && !error; i++) {
    if (one_in(random, 10)) move_lora(random, kernel, model);
    if (one_in(random, 3)) try_states(random, kernel);
    if (one_in(random, 3)) try_taps(random, kernel);
    if (one_in(random, 20)) take_away(random, opened, numbers, valid->length, &results);
    int32_t layer = one_in(random, 4) ? edge_near(random, kernel->toLayer) : kernel->toLayer;
    switch (random_in(random, 0, kernel->filed ? 4 : 2)) {
      case 0: kernel_route(kernel, layer); break;
      case 1: kernel_feed(kernel, layer); break;
      case 2: one_in(random, 4) ? kernel_end(kernel) : kernel_run_layers(kernel, layer, layer < INT32_MAX ? layer + 1 : layer); break;
      default: place_some(random, kernel, layer); break;
    }
  }
  // No step that has begun points to results that are freed.
  kernel->step = NULL;
  for (int32_t l = 0; kernel->filed && l < kernel->model.numLayers; l++)
    for (int32_t e = 0; kernel->layers[l].experts && e < kernel->layers[l].numExperts; e++) kernel_place(kernel, l, e, NULL, 0);
  free(numbers);
  free(results.candidateIds);
  free(results.logits);
  free(results.sums);
  free(results.fullLogits);
}

/** Places a lora elsewhere and takes it away: a request with it is refused, and does not read memory that is free. */
static void try_lora(Random *random, const Opened *opened, const TestModel *model, const Request *valid) {
  if (model->numLoras == 0) return;
  int32_t slot = random_in(random, 0, model->numLoras - 1), numRows = valid->numbers[0], isUsed = 0;
  for (int32_t i = 0; i < numRows; i++) isUsed |= valid->numbers[REQUEST_HEADER + 2 * numRows + i] == slot;
  uint8_t *copy = aligned_copy(model->loras[slot], model->loraBytes[slot]);
  if (kernel_place_lora(opened->kernel, slot, copy, model->loraBytes[slot])) wrong("a lora was refused the second time");
  if (kernel_place_lora(opened->kernel, slot, NULL, 0)) wrong("a lora could not be taken away");
  free(copy);
  uint64_t digest;
  const char *error = play_request(opened, valid, &digest, NULL);
  if (isUsed != (error != NULL)) wrong("a request ran without its lora, or was refused without need");
  if (kernel_place_lora(opened->kernel, slot, model->loras[slot], model->loraBytes[slot])) wrong("a lora could not be placed again");
}

/** Angles that do not fit. */
static void try_angles(Random *random, Kernel *kernel, const TestModel *model) {
  size_t length = (size_t)random_in(random, 0, 300);
  float *angles = calloc(length, 4);
  int32_t set = edge_near(random, 0), position = edge_near(random, model->options.maxPositions);
  kernel_set_rotary(kernel, set, position, angles, length);
  free(angles);
}

/** Logits of rows that are not there, and room that does not fit. */
static void try_logits(Random *random, const Opened *opened) {
  size_t length = (size_t)(opened->kernel->model.numLogits + random_in(random, -1, 1));
  float *logits = calloc(length, 4);
  if (!logits) abort();
  kernel_read_logits(opened->kernel, one_in(random, 2) ? random_in(random, -2, 40) : edge_near(random, 0), logits, length);
  free(logits);
}

void check_requests(uint64_t seed, int32_t numModels) {
  for (int32_t m = 0; m < numModels; m++) {
    Random random = {seed + (uint64_t)m * 0x100000001u};
    TestModel model = make_model(&random);
    Scenario scenario = make_scenario(&random, &model);
    Opened opened;
    model.options.streamsExperts = one_in(&random, 2);
    const char *error = open_model(&model, any_loops(&random), random_in(&random, 1, 3), &opened);
    if (error) wrong("seed %llu, model %d: %s", (unsigned long long)seed, m, error);
    int32_t end = model.model.numLayers;
    if (one_in(&random, 3)) kernel_tap(opened.kernel, &end, 1);
    Played before = play(&opened, &scenario);
    for (int32_t i = 0; i < scenario.numRequests; i++)
      for (int j = 0; j < 60; j++) {
        try_request(&random, &opened, &scenario.requests[i]);
        try_logits(&random, &opened);
        if (j % 12 == 0) try_lora(&random, &opened, &model, &scenario.requests[i]);
        if (j % 6 == 0) try_parts(&random, &opened, &model, &scenario.requests[i]);
      }
    // Pages hold other things now, but every position is written before it is read.
    Played after = play(&opened, &scenario);
    for (int32_t i = 0; i < scenario.numRequests; i++)
      if (before.digests[i] != after.digests[i]) wrong("seed %llu, model %d: a request changed those after it", (unsigned long long)seed, m);
    for (int j = 0; j < 100; j++) try_angles(&random, opened.kernel, &model);
    free(before.told);
    free(after.told);
    close_opened(&opened);
    free_scenario(&scenario);
    free_model(&model);
  }
}
