// Checks the numbers of a step before a read depends on them.

#include "phases.h"

/** Checks states, and that none is written that another place reads or writes. */
static const char *check_states(const Kernel *kernel, const Step *step) {
  if (kernel->stateFloats == 0 && step->numSaves > 0) return "a saved state";
  const int32_t *sequence = step->sequences;
  for (int s = 0; s < step->numSequences; s++, sequence += SEQUENCE_FIELDS) {
    int32_t least = kernel->stateFloats > 0 && sequence[1] > 0 ? 0 : -1, most = least < 0 ? -1 : step->pages->numStates - 1;
    if (sequence[3] < least || sequence[3] > most) return "a state";
  }
  for (int i = 0; i < step->numSaves; i++) {
    int32_t row = step->savedRows[i], state = step->savedStates[i];
    if (row < (i == 0 ? 0 : step->savedRows[i - 1] + 1) || row >= step->numRows) return "a saved row";
    if (state < 0 || state >= step->pages->numStates) return "a saved state";
    for (int j = 0; j < i; j++)
      if (step->savedStates[j] == state) return "a state that is saved twice";
    sequence = step->sequences;
    for (int s = 0, end = 0; s < step->numSequences; s++, sequence += SEQUENCE_FIELDS)
      if (end += sequence[0], sequence[3] == state && row != end - 1) return "a saved state that is read";
  }
  return NULL;
}

const char *check_step(const Kernel *kernel, const Step *step) {
  const KernelOptions *options = &kernel->options;
  if (!are_pages_of(kernel, step->pages)) return "pages of this kernel that are open";
  if (step->numRows < 1 || step->numRows > options->maxRows || step->numSequences < 1 || step->numSequences > step->numRows) return "rows";
  if (step->numWanted < 0 || step->numWanted > MOST_WANTED) return "wanted rows";
  if (step->numCandidates < 1 || step->numCandidates > kernel->model.numLogits) return "candidates";
  int32_t numTokens = kernel->model.vocabSize * (kernel->segments ? kernel->segments->numOut : 1);
  for (int i = 0; i < step->numRows; i++)
    if (step->tokens[i] < 0 || step->tokens[i] >= numTokens) return "a token";
  for (int i = 0; i < step->numRows; i++)
    if (step->experts[i] < 0 || step->experts[i] >= kernel->model.numExperts) return "an expert";
  for (int i = 0; i < step->numRows; i++) {
    int32_t lora = step->loras[i];
    if (lora < -1 || lora >= kernel->numLoras) return "a lora";
    if (lora >= 0 && !kernel->loras[lora]) return "a lora's weights";
  }
  int64_t rows = 0, entries = 0;
  for (int s = 0; s < step->numSequences; s++) {
    const int32_t *sequence = step->sequences + s * SEQUENCE_FIELDS;
    if (sequence[0] < 1 || sequence[0] > step->numRows) return "a sequence's rows";
    if (kernel->model.isEncoder && sequence[1] != 0) return "a position";
    if (sequence[1] < 0 || (int64_t)sequence[1] + sequence[0] > options->maxPositions) return "a position";
    if (sequence[2] != entries) return "a page table's place";
    rows += sequence[0];
    entries += ((int64_t)sequence[1] + sequence[0] + PAGE_TOKENS - 1) / PAGE_TOKENS;
  }
  if (rows != step->numRows || entries != step->numTableEntries) return "rows and pages of all sequences";
  const char *error = check_states(kernel, step);
  if (error) return error;
  for (int i = 0; i < step->numTableEntries; i++)
    if (step->pageTable[i] < 0 || step->pageTable[i] >= step->pages->numPages) return "a page";
  for (int i = 0; i < step->numWanted; i++) {
    int32_t least = i == 0 ? 0 : step->wanted[i - 1] + !kernel->head;
    if (step->wanted[i] < least || step->wanted[i] >= step->numRows) return "a wanted row";
    if (step->targets[i] < 0 || step->targets[i] >= kernel->model.numLogits) return "a target";
    if (step->fullPlaces[i] < -1 || step->fullPlaces[i] >= step->numFullRows) return "a row of all logits";
  }
  return NULL;
}
