#include <stdlib.h>
#include <string.h>
#include "check.h"
#include "play.h"
#include "processor.h"
#include "rows_product.h"

typedef struct {
  uint64_t seed;
  int32_t index;
  const TestModel *model;
} Case;

static Played play_on(const Case *at, const Loops *loops, int32_t numThreads, const Scenario *scenario) {
  Opened opened;
  const char *error = open_model(at->model, loops, numThreads, &opened);
  if (error) wrong("seed %llu, model %d: %s cannot be opened: %s", (unsigned long long)at->seed, at->index, loops->name, error);
  Played played = play(&opened, scenario);
  close_opened(&opened);
  if (played.error) wrong("seed %llu, model %d, %s: %s", (unsigned long long)at->seed, at->index, loops->name, played.error);
  return played;
}

static void compare(const Case *at, const Loops *loops, int32_t numThreads, const Scenario *scenario, const Played *expected) {
  Played played = play_on(at, loops, numThreads, scenario);
  for (int32_t i = 0; i < scenario->numRequests; i++)
    if (played.digests[i] != expected->digests[i])
      wrong("seed %llu, model %d, request %d: other bits from %s with %d threads", (unsigned long long)at->seed, at->index, i, loops->name, numThreads);
  free(played.told);
}

/** One sequence by itself tells what it told among others. */
static void compare_alone(const Case *at, Random *random, const Loops *loops, const Scenario *scenario, const Played *expected) {
  int32_t sequence = random_in(random, 0, scenario->numSequences - 1);
  Scenario alone = make_alone(random, at->model, scenario, sequence);
  Played played = play_on(at, loops, random_in(random, 1, 2), &alone);
  size_t own = 0;
  for (size_t i = 0; i < scenario->numWishes && own < alone.numWishes; i++) {
    if (scenario->wishes[i].sequence != sequence) continue;
    if (played.told[own++] != expected->told[i])
      wrong("seed %llu, model %d: sequence %d tells another thing alone at position %d (%s)", (unsigned long long)at->seed, at->index, sequence,
            scenario->wishes[i].position, loops->name);
  }
  free(played.told);
  free_scenario(&alone);
}

/** Multiplies with one team of a number of threads. */
static const char *multiply_with(RowsProduct *product, int32_t numThreads) {
  Team team = {.numThreads = 0};
  if (team_start(&team, numThreads) != 0) return "threads";
  product->team = &team;
  const char *error = multiply_rows(product);
  team_end(&team);
  return error;
}

/** Multiplies random rows with each tensor of a model. @returns the digest of all outputs, which are the same on all loops */
static uint64_t multiply_tensors(const Case *at, Random *random, const Loops *const available[], int count, uint64_t digest) {
  const TestModel *model = at->model;
  const uint8_t *tensors = model->file + sizeof(ModelDescription) + (size_t)model->model.numLayers * sizeof(LayerDescription);
  for (int32_t t = 0; t < model->model.numTensors; t++) {
    RowsProduct product = {.file = model->file, .bytes = model->bytes, .loops = &loops_plain};
    product.numRows = random_in(random, 1, 120);
    memcpy(&product.tensor, tensors + (size_t)t * sizeof product.tensor, sizeof product.tensor);
    size_t numInputs = (size_t)product.numRows * (size_t)product.tensor.numIn, bytes = (size_t)product.numRows * (size_t)product.tensor.numOut * 4;
    float *rows = malloc(numInputs * 4), *out = malloc(bytes), *other = malloc(bytes);
    if (!rows || !out || !other) abort();
    for (size_t i = 0; i < numInputs; i++) rows[i] = random_float(random, 2);
    product.rows = rows, product.out = out;
    const char *error = multiply_with(&product, 1);
    if ((error != NULL) != (product.tensor.format < FORMAT_FLOAT)) wrong("model %d, tensor %d: %s", at->index, t, error ? error : "multiplied");
    if (!error) digest = digest_bytes(digest, out, bytes);
    for (int l = 0; !error && l < count; l++) {
      product.loops = available[l], product.out = other;
      if (multiply_with(&product, 1 + l % 2) || memcmp(out, other, bytes) != 0) wrong("model %d, tensor %d: other bits from %s", at->index, t, available[l]->name);
    }
    free(rows), free(out), free(other);
  }
  return digest;
}

uint64_t check_bits(uint64_t seed, int32_t numModels, int32_t mostThreads) {
  uint64_t digest = DIGEST_START;
  const Loops *available[4];
  int count = available_loops(available);
  for (int32_t m = 0; m < numModels; m++) {
    Random random = {seed + (uint64_t)m * 0x100000001u};
    TestModel model = make_model(&random);
    Scenario scenario = make_scenario(&random, &model);
    Case at = {seed, m, &model};
    Played expected = play_on(&at, &loops_plain, 1, &scenario);
    digest = digest_bytes(digest, expected.digests, (size_t)scenario.numRequests * sizeof(uint64_t));
    for (int l = 0; l < count; l++) compare(&at, available[l], 1 + (m + l) % mostThreads, &scenario, &expected);
    TestModel streamed = model;
    streamed.options.streamsExperts = 1;
    compare(&(Case){seed, m, &streamed}, available[m % count], 1 + m % mostThreads, &scenario, &expected);
    if (scenario.numSequences > 0) compare_alone(&at, &random, available[m % count], &scenario, &expected);
    digest = multiply_tensors(&at, &random, available, count, digest);
    free(expected.told);
    free_scenario(&scenario);
    free_model(&model);
  }
  return digest;
}
