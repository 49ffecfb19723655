#include "play.h"
#include <stdlib.h>
#include "request.h"
#include "streamed.h"

uint64_t digest_bytes(uint64_t digest, const void *bytes, size_t count) {
  for (size_t i = 0; i < count; i++) digest = (digest ^ ((const uint8_t *)bytes)[i]) * 0x100000001b3u;
  return digest;
}

/** Joins floats. Processors differ in which NaN an operation gives. */
static uint64_t digest_floats(uint64_t digest, const float *floats, size_t count) {
  for (size_t i = 0; i < count; i++) {
    float number = floats[i] == floats[i] ? floats[i] : __builtin_nanf("");
    digest = digest_bytes(digest, &number, sizeof number);
  }
  return digest;
}

static uint64_t digest_doubles(uint64_t digest, const double *doubles, size_t count) {
  for (size_t i = 0; i < count; i++) {
    double number = doubles[i] == doubles[i] ? doubles[i] : __builtin_nan("");
    digest = digest_bytes(digest, &number, sizeof number);
  }
  return digest;
}

/** Joins the logits of the last wanted row, which the kernel keeps. */
static uint64_t digest_kept(const Opened *opened, int32_t wanted, uint64_t digest) {
  size_t count = (size_t)opened->kernel->model.numLogits;
  float *logits = calloc(count, 4);
  if (logits && !kernel_read_logits(opened->kernel, wanted, logits, count)) digest = digest_floats(digest, logits, count);
  free(logits);
  return digest;
}

const char *play_request(const Opened *opened, const Request *request, uint64_t *digest, uint64_t *told) {
  Results results = {
      .candidateIds = calloc(request->numCandidateIds, 4),
      .numCandidateIds = request->numCandidateIds,
      .logits = calloc(request->numLogits, 4),
      .numLogits = request->numLogits,
      .sums = calloc(request->numSums, 8),
      .numSums = request->numSums,
      .fullLogits = calloc(request->numFullLogits, 4),
      .numFullLogits = request->numFullLogits,
      .inputSquares = calloc(opened->kernel->numInputs, 4),
      .numInputSquares = request->length % 2 == 0 ? opened->kernel->numInputs : 0,
  };
  const char *error = opened->kernel->filed ? run_streamed(opened, request->numbers, request->length, &results)
                                            : kernel_run(opened->kernel, &opened->pages, request->numbers, request->length, &results);
  *digest = digest_bytes(DIGEST_START, results.candidateIds, request->numCandidateIds * 4);
  *digest = digest_floats(*digest, results.logits, request->numLogits);
  *digest = digest_doubles(*digest, results.sums, request->numSums);
  *digest = digest_floats(*digest, results.fullLogits, request->numFullLogits);
  *digest = digest_floats(*digest, results.inputSquares, opened->kernel->numInputs);
  *digest = digest_kept(opened, request->numWanted - 1, *digest);
  for (int32_t i = 0; told && !error && i < request->numWanted; i++) {
    told[i] = digest_doubles(DIGEST_START, results.sums + 2 * i, 2);
    told[i] = digest_floats(told[i], results.logits + (size_t)request->numWanted * (size_t)request->numCandidates + i, 1);
  }
  free(results.candidateIds);
  free(results.logits);
  free(results.sums);
  free(results.fullLogits);
  free(results.inputSquares);
  return error;
}

Played play(const Opened *opened, const Scenario *scenario) {
  Played played = {.told = calloc(scenario->numWishes + 1, sizeof(uint64_t))};
  if (!played.told) abort();
  uint64_t *told = played.told;
  for (int32_t i = 0; i < scenario->numRequests && !played.error; i++) {
    played.error = play_request(opened, &scenario->requests[i], &played.digests[i], told);
    told += scenario->requests[i].numWanted;
  }
  return played;
}
