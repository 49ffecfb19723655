// A step that is being put together, and the request that it becomes.

#pragma once
#include "scenario.h"

enum { DRAFT_SAVES = 24, DRAFT_ROWS = 256, DRAFT_SEQUENCES = 8, DRAFT_ENTRIES = 256, DRAFT_WANTED = 512 };

typedef struct {
  int32_t numRows, numSequences, numEntries, numWanted, numCandidates, numFullRows, numSaves;
  int32_t tokens[DRAFT_ROWS], experts[DRAFT_ROWS], loras[DRAFT_ROWS], sequences[DRAFT_SEQUENCES * SEQUENCE_FIELDS], pageTable[DRAFT_ENTRIES];
  int32_t savedRows[DRAFT_SAVES], savedStates[DRAFT_SAVES];
  int32_t wanted[DRAFT_WANTED], targets[DRAFT_WANTED], fullPlaces[DRAFT_WANTED];
  Wish wishes[DRAFT_WANTED];
} Draft;

/** Adds rows of one sequence; token and position decide on the expert and the lora. @param pages - of its positions from 0 on */
void draft_rows(Draft *draft, const TestModel *model, const int32_t *tokens, int32_t numRows, int32_t position, const int32_t *pages);
/** Gives the sequence that was added last its state, and saves it behind one of its rows and the last. @param states - from, between, to */
void draft_states(Draft *draft, int32_t between, const int32_t states[3]);
/** Adds a wanted row, the last one or a later one. */
void draft_wish(Draft *draft, int32_t row, Wish wish, int32_t fullPlace);
/** Appends the step to a scenario. */
void add_request(Scenario *scenario, const Draft *draft, int32_t numLogits);
