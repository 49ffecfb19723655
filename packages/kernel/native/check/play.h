// Runs requests and sums up the bits of all results.

#pragma once
#include "scenario.h"

typedef struct {
  /** By request: a digest of all its results. */
  uint64_t digests[MOST_STEPS];
  /** By wanted row of the scenario: a digest of what its tokens alone decide. */
  uint64_t *told;
  /** NULL, or why a request did not run. */
  const char *error;
} Played;

/** Joins bytes to a digest (FNV-1a); a first one begins with `DIGEST_START`. */
uint64_t digest_bytes(uint64_t digest, const void *bytes, size_t count);
static const uint64_t DIGEST_START = 0xcbf29ce484222325u;

/**
 * Runs one request, its results in memory of exactly the sizes that it says.
 * @param told - NULL, or a place for a digest of each wanted row
 */
const char *play_request(const Opened *opened, const Request *request, uint64_t *digest, uint64_t *told);
Played play(const Opened *opened, const Scenario *scenario);
