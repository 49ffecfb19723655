// Random steps of sequences that come, share pages and go, as requests of `kernel_run`.

#pragma once
#include "model.h"

enum { MOST_STEPS = 64, MOST_SEQUENCES = 64, MOST_LENGTH = 256 };

/** One request and the room that its results need. */
typedef struct {
  int32_t *numbers;
  size_t length;
  size_t numCandidateIds, numLogits, numSums, numFullLogits;
  int32_t numWanted, numCandidates;
  /** By wanted row: its sequence, of the whole scenario. */
  int32_t *owners;
} Request;

/** A wanted row: what it tells depends on the tokens before it alone. */
typedef struct {
  int32_t sequence, position, target;
} Wish;

typedef struct {
  int32_t tokens[MOST_LENGTH];
  int32_t numTokens;
} History;

typedef struct {
  Request requests[MOST_STEPS];
  int32_t numRequests;
  History histories[MOST_SEQUENCES];
  int32_t numSequences;
  /** All wanted rows, in the order of the requests. */
  Wish *wishes;
  size_t numWishes, wishRoom;
} Scenario;

Scenario make_scenario(Random *random, const TestModel *model);
/** The rows of one sequence by themselves, in other pieces and on other pages, with the same wishes. */
Scenario make_alone(Random *random, const TestModel *model, const Scenario *from, int32_t sequence);
void free_scenario(Scenario *scenario);
