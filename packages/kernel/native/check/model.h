// A small packed model of random shape.

#pragma once
#include "random.h"
#include "state.h"

enum { TEST_LORAS = 3 };

enum { TEST_STATES = 18 };

typedef struct {
  /** The packed file, in memory of exactly its size. */
  uint8_t *file;
  size_t bytes;
  ModelDescription model;
  /** Number of tokens of all segments. */
  int32_t numTokens;
  KernelOptions options;
  int32_t numPages, type;
  /** Whether layers have recurrences; sequences then have TEST_STATES states together. */
  int32_t hasStates;
  int32_t rotarySizes[MOST_ROTARIES];
  /** Loras, in memory of exactly their sizes. */
  int32_t numLoras;
  uint8_t *loras[TEST_LORAS];
  size_t loraBytes[TEST_LORAS];
  /** By set: angles of all positions. */
  float *angles[MOST_ROTARIES];
} TestModel;

TestModel make_model(Random *random);
void free_model(TestModel *model);

/** A copy of the first `bytes` bytes, aligned as a packed file has to be. */
uint8_t *aligned_copy(const uint8_t *from, size_t bytes);

/** A kernel with memory for keys and values. */
typedef struct {
  Kernel *kernel;
  Pages pages;
} Opened;

/** Opens the model and sets its angles. @returns NULL, or why it cannot be opened, where nothing is open */
const char *open_model(const TestModel *model, const Loops *loops, int32_t numThreads, Opened *opened);
void close_opened(Opened *opened);
