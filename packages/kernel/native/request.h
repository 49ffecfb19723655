// A step as one array of numbers, the form in which both hosts pass it.

#pragma once
#include "kernel.h"

enum { REQUEST_HEADER = 6 };

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
 * Runs a step.
 *
 * @param request - numbers of rows, sequences, wanted rows, candidates, entries of page tables and rows of all logits;
 *   then the tokens, experts, changes, sequences, page tables, wanted rows, targets and places of all logits (see `Step`)
 * @returns NULL, or the part of the request that is invalid
 */
const char *kernel_run(Kernel *kernel, const Pages *pages, const int32_t *request, size_t length, const Results *results);
/** Begins a step, like `kernel_begin`. */
const char *kernel_begin_run(Kernel *kernel, const Pages *pages, const int32_t *request, size_t length, const Results *results);
