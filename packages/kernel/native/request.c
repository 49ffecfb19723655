#include "request.h"
#include "state.h"

/** Reads a step. @returns NULL, or the part of the request that is invalid */
static const char *read_step(const Kernel *kernel, const Pages *pages, const int32_t *request, size_t length, const Results *results, Step *made) {
  if (length < REQUEST_HEADER) return "the request's length";
  for (int i = 0; i < REQUEST_HEADER; i++)
    if (request[i] < 0 || request[i] > 1 << 28) return "the request's header";
  Step step = {
      .pages = pages,
      .numRows = request[0],
      .numSequences = request[1],
      .numWanted = request[2],
      .numCandidates = request[3],
      .numTableEntries = request[4],
      .numFullRows = request[5],
      .candidateIds = results->candidateIds,
      .candidateLogits = results->logits,
      .logSumExp = results->sums,
      .fullLogits = results->fullLogits,
      .inputSquares = results->numInputSquares > 0 ? results->inputSquares : NULL,
  };
  size_t rows = (size_t)step.numRows, sequences = (size_t)step.numSequences * SEQUENCE_FIELDS, wanted = (size_t)step.numWanted;
  // In 64 bits also in WebAssembly, where such products could overflow to a size that fits.
  uint64_t candidates = (uint64_t)wanted * (uint64_t)step.numCandidates;
  if (length != REQUEST_HEADER + 3 * rows + sequences + (size_t)step.numTableEntries + 3 * wanted) return "the request's length";
  if (candidates > results->numCandidateIds || candidates + wanted > results->numLogits || 2 * wanted > results->numSums ||
      (uint64_t)step.numFullRows * (uint64_t)kernel->model.numLogits > results->numFullLogits)
    return "room for the results";
  if (step.inputSquares && results->numInputSquares != kernel->numInputs) return "room for the inputs' squares";
  step.tokens = request + REQUEST_HEADER;
  step.experts = step.tokens + rows;
  step.changes = step.experts + rows;
  step.sequences = step.changes + rows;
  step.pageTable = step.sequences + sequences;
  step.wanted = step.pageTable + step.numTableEntries;
  step.targets = step.wanted + wanted;
  step.fullPlaces = step.targets + wanted;
  step.targetLogits = results->logits + candidates;
  *made = step;
  return NULL;
}

const char *kernel_run(Kernel *kernel, const Pages *pages, const int32_t *request, size_t length, const Results *results) {
  Step step;
  const char *error = read_step(kernel, pages, request, length, results, &step);
  return error ? error : kernel_step(kernel, &step);
}

const char *kernel_begin_run(Kernel *kernel, const Pages *pages, const int32_t *request, size_t length, const Results *results) {
  Step step;
  const char *error = read_step(kernel, pages, request, length, results, &step);
  return error ? error : kernel_begin(kernel, &step);
}
