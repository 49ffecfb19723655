// Reads a packed file's descriptions.

#pragma once
#include "state.h"

typedef struct {
  const uint8_t *file;
  size_t bytes;
  /** What is wrong first; NULL as long as nothing is. */
  const char *error;
} Reader;

static inline int32_t whole(int32_t size, int32_t unit) { return (size + unit - 1) / unit * unit; }

/** Takes down what is wrong. @returns 0 */
int fail(Reader *reader, const char *error);
/** @returns whether the tensor is sound */
int read_tensor(Reader *reader, const TensorDescription *from, Tensor *tensor);
/** A tensor of the model; NULL for -1, where `isNeeded` does not forbid it. */
const Tensor *tensor_at(Reader *reader, const Kernel *kernel, int32_t index, int isNeeded);
/** Weights of a product with these sizes. */
const Tensor *weights_at(Reader *reader, const Kernel *kernel, int32_t index, int32_t numOut, int32_t numIn, int isNeeded);
/** Scales of a norm, padded to whole panels: a table of one row. */
const float *norm_at(Reader *reader, const Kernel *kernel, int32_t index, int32_t size);
