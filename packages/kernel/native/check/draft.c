#include "draft.h"
#include <stdlib.h>
#include <string.h>
#include "request.h"

/** Changes the lora seldom, so that rows often share one. */
static int32_t lora_of(const TestModel *model, int32_t token, int32_t position) {
  return model->numLoras == 0 ? -1 : (token / 64 + position / 8) % (model->numLoras + 1) - 1;
}

void draft_rows(Draft *draft, const TestModel *model, const int32_t *tokens, int32_t numRows, int32_t position, const int32_t *pages) {
  int32_t numPages = (position + numRows + PAGE_TOKENS - 1) / PAGE_TOKENS;
  if (draft->numRows + numRows > DRAFT_ROWS || draft->numSequences == DRAFT_SEQUENCES || draft->numEntries + numPages > DRAFT_ENTRIES) abort();
  memcpy(draft->tokens + draft->numRows, tokens, (size_t)numRows * 4);
  for (int32_t i = 0; i < numRows; i++) draft->experts[draft->numRows + i] = (tokens[i] * 7 + position + i) / 3 % model->model.numExperts;
  for (int32_t i = 0; i < numRows; i++) draft->loras[draft->numRows + i] = lora_of(model, tokens[i], position + i);
  int32_t *sequence = draft->sequences + SEQUENCE_FIELDS * draft->numSequences++;
  sequence[0] = numRows, sequence[1] = position, sequence[2] = draft->numEntries, sequence[3] = -1;
  memcpy(draft->pageTable + draft->numEntries, pages, (size_t)numPages * 4);
  draft->numRows += numRows;
  draft->numEntries += numPages;
}

void draft_states(Draft *draft, int32_t between, const int32_t states[3]) {
  int32_t *sequence = draft->sequences + SEQUENCE_FIELDS * (draft->numSequences - 1), firstRow = draft->numRows - sequence[0];
  if (draft->numSaves + 2 > DRAFT_SAVES) abort();
  sequence[3] = states[0];
  if (between < sequence[0] - 1) {
    draft->savedRows[draft->numSaves] = firstRow + between;
    draft->savedStates[draft->numSaves++] = states[1];
  }
  draft->savedRows[draft->numSaves] = draft->numRows - 1;
  draft->savedStates[draft->numSaves++] = states[2];
}

void draft_wish(Draft *draft, int32_t row, Wish wish, int32_t fullPlace) {
  int32_t i = draft->numWanted++;
  if (i == DRAFT_WANTED) abort();
  draft->wanted[i] = row, draft->targets[i] = wish.target, draft->fullPlaces[i] = fullPlace, draft->wishes[i] = wish;
  if (fullPlace >= draft->numFullRows) draft->numFullRows = fullPlace + 1;
}

static int32_t *append(int32_t *to, const int32_t *from, int32_t count) {
  memcpy(to, from, (size_t)count * 4);
  return to + count;
}

void add_request(Scenario *scenario, const Draft *draft, int32_t numLogits) {
  if (scenario->numRequests == MOST_STEPS) abort();
  size_t wanted = (size_t)draft->numWanted, candidates = wanted * (size_t)draft->numCandidates;
  size_t length = REQUEST_HEADER + (size_t)(3 * draft->numRows + draft->numSequences * SEQUENCE_FIELDS + draft->numEntries + 2 * draft->numSaves) + 3 * wanted;
  Request request = {
      .numbers = malloc(length * 4),
      .length = length,
      .numCandidateIds = candidates,
      .numLogits = candidates + wanted,
      .numSums = 2 * wanted,
      .numFullLogits = (size_t)draft->numFullRows * (size_t)numLogits,
      .numWanted = draft->numWanted,
      .numCandidates = draft->numCandidates,
      .owners = malloc(wanted * 4 + 1),
  };
  if (!request.numbers || !request.owners) abort();
  const int32_t header[REQUEST_HEADER] = {draft->numRows,    draft->numSequences, draft->numWanted, draft->numCandidates,
                                          draft->numEntries, draft->numFullRows,  draft->numSaves};
  int32_t *to = append(request.numbers, header, REQUEST_HEADER);
  to = append(to, draft->tokens, draft->numRows);
  to = append(to, draft->experts, draft->numRows);
  to = append(to, draft->loras, draft->numRows);
  to = append(to, draft->sequences, draft->numSequences * SEQUENCE_FIELDS);
  to = append(to, draft->pageTable, draft->numEntries);
  to = append(to, draft->wanted, draft->numWanted);
  to = append(to, draft->targets, draft->numWanted);
  to = append(to, draft->fullPlaces, draft->numWanted);
  to = append(to, draft->savedRows, draft->numSaves);
  append(to, draft->savedStates, draft->numSaves);
  scenario->requests[scenario->numRequests++] = request;
  if (scenario->numWishes + wanted > scenario->wishRoom) {
    scenario->wishRoom = 2 * (scenario->numWishes + wanted);
    scenario->wishes = realloc(scenario->wishes, scenario->wishRoom * sizeof(Wish));
    if (!scenario->wishes) abort();
  }
  for (size_t i = 0; i < wanted; i++) {
    request.owners[i] = draft->wishes[i].sequence;
    scenario->wishes[scenario->numWishes++] = draft->wishes[i];
  }
}

void free_scenario(Scenario *scenario) {
  for (int32_t i = 0; i < scenario->numRequests; i++) {
    free(scenario->requests[i].numbers);
    free(scenario->requests[i].owners);
  }
  free(scenario->wishes);
}
