// A step as one array of numbers, the form in which both hosts pass it.

#pragma once
#include "kernel.h"

enum { REQUEST_HEADER = 7 };

/** Memory for a step's results, with the number of elements of each. */
typedef struct {
  int32_t *candidateIds;
  size_t numCandidateIds;
  /** Candidates' logits, then targets' logits. */
  float *logits;
  size_t numLogits;
  double *sums;
  size_t numSums;
  float *fullLogits;
  size_t numFullLogits;
  /** Empty when no squares are wanted. */
  float *inputSquares;
  size_t numInputSquares;
} Results;

/**
 * Runs a step. It ends a step that has begun, also when it is refused itself.
 *
 * @param request - numbers of rows, sequences, wanted rows, candidates, entries of page tables, rows of all logits and
 *   saved states; then the tokens, experts, loras, sequences, page tables, wanted rows, targets, places of all logits, saved
 *   rows and their states (see `Step`).
 *   It is copied first: the host's array may change meanwhile, or share its memory with the results.
 * @returns NULL, or the part of the request that is invalid
 */
const char *kernel_run(Kernel *kernel, const Pages *pages, const int32_t *request, size_t length, const Results *results);
/** Begins a step, like `kernel_begin`. */
const char *kernel_begin_run(Kernel *kernel, const Pages *pages, const int32_t *request, size_t length, const Results *results);
/**
 * Sets where the step that has begun writes its results, since a host's arrays may move or shrink.
 *
 * @returns NULL, also when no step has begun, or the results without room; the step has ended then
 */
const char *kernel_move_results(Kernel *kernel, const Results *results);
