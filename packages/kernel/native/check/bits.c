#include <stdlib.h>
#include "check.h"
#include "play.h"
#include "processor.h"

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
    free(expected.told);
    free_scenario(&scenario);
    free_model(&model);
  }
  return digest;
}
