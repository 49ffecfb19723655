// A step as one array of numbers, which is how both hosts hand it over.

#pragma once
#include "kernel.h"

enum { REQUEST_HEADER = 6 };

/** Room for a step's results, with the number of elements of each. */
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
  /** No elements where no squares are wanted. */
  float *inputSquares;
  size_t numInputSquares;
} Results;

/**
 * Runs a step.
 *
 * @param request - rows, sequences, wanted rows, candidates, entries of page tables, rows of all logits; then tokens, experts, sequences,
 *   page tables, wanted rows, targets and places of all logits, one after the other: see `Step`
 * @returns NULL, or what of the request cannot be
 */
const char *kernel_run(Kernel *kernel, const Pages *pages, const int32_t *request, size_t length, const Results *results);
/** Begins such a step: see `kernel_begin`. */
const char *kernel_begin_run(Kernel *kernel, const Pages *pages, const int32_t *request, size_t length, const Results *results);
