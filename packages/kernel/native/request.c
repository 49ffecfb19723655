#include "request.h"
#include "memory.h"
#include "platform.h"
#include "state.h"

/** Copies a request into memory of the kernel. @returns NULL when there is no memory */
static const int32_t *copy_request(Kernel *kernel, const int32_t *request, size_t length) {
  if (length > kernel->requestRoom) {
    size_t room = length + length / 2;
    int32_t *made = length > SIZE_MAX / 8 ? NULL : platform_allocate(room * sizeof *made);
    if (!made) return NULL;
    platform_free(kernel->request);
    kernel->request = made;
    kernel->requestRoom = room;
  }
  memcpy(kernel->request, request, length * sizeof *request);
  return kernel->request;
}

static const char *set_results(const Kernel *kernel, const Results *results, Step *step) {
  // In 64 bits also in WebAssembly, where such products could overflow to a size that fits.
  uint64_t wanted = (uint64_t)step->numWanted, candidates = wanted * (uint64_t)step->numCandidates;
  if (candidates > results->numCandidateIds || candidates + wanted > results->numLogits || 2 * wanted > results->numSums ||
      (uint64_t)step->numFullRows * (uint64_t)kernel->model.numLogits > results->numFullLogits)
    return "room for the results";
  if (results->numInputSquares > 0 && results->numInputSquares != kernel->numInputs) return "room for the inputs' squares";
  step->candidateIds = results->candidateIds;
  step->candidateLogits = results->logits;
  step->targetLogits = results->logits + candidates;
  step->logSumExp = results->sums;
  step->fullLogits = results->fullLogits;
  step->inputSquares = results->numInputSquares > 0 ? results->inputSquares : NULL;
  return NULL;
}

/** Reads a step. @returns NULL, or the part of the request that is invalid */
static const char *read_step(Kernel *kernel, const Pages *pages, const int32_t *request, size_t length, const Results *results, Step *made) {
  int32_t header[REQUEST_HEADER];
  kernel->step = NULL;
  if (length < REQUEST_HEADER) return "the request's length";
  // Read once, since other threads may write to the host's array.
  memcpy(header, request, sizeof header);
  for (int i = 0; i < REQUEST_HEADER; i++)
    if (header[i] < 0 || header[i] > 1 << 28) return "the request's header";
  Step step = {
      .pages = pages,
      .numRows = header[0],
      .numSequences = header[1],
      .numWanted = header[2],
      .numCandidates = header[3],
      .numTableEntries = header[4],
      .numFullRows = header[5],
      .numSaves = header[6],
  };
  size_t rows = (size_t)step.numRows, sequences = (size_t)step.numSequences * SEQUENCE_FIELDS, wanted = (size_t)step.numWanted;
  size_t saves = (size_t)step.numSaves;
  if (length != REQUEST_HEADER + 3 * rows + sequences + (size_t)step.numTableEntries + 3 * wanted + 2 * saves) return "the request's length";
  const char *error = set_results(kernel, results, &step);
  if (error) return error;
  const int32_t *copy = copy_request(kernel, request, length);
  if (!copy) return "memory";
  step.tokens = copy + REQUEST_HEADER;
  step.experts = step.tokens + rows;
  step.loras = step.experts + rows;
  step.sequences = step.loras + rows;
  step.pageTable = step.sequences + sequences;
  step.wanted = step.pageTable + step.numTableEntries;
  step.targets = step.wanted + wanted;
  step.fullPlaces = step.targets + wanted;
  step.savedRows = step.fullPlaces + wanted;
  step.savedStates = step.savedRows + saves;
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

const char *kernel_move_results(Kernel *kernel, const Results *results) {
  if (!kernel->step) return NULL;
  int hadSquares = kernel->begun.inputSquares != NULL;
  const char *error = set_results(kernel, results, &kernel->begun);
  if (!error && hadSquares != (results->numInputSquares > 0)) error = "room for the inputs' squares";
  if (error) kernel->step = NULL;
  return error;
}
