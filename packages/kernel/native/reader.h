// Reads a packed file's descriptions.

#pragma once
#include "state.h"

typedef struct {
  const uint8_t *file;
  size_t bytes;
  /** First error; NULL while there is none. */
  const char *error;
} Reader;

/** Records an error. @returns 0 */
int fail(Reader *reader, const char *error);
/** Returns the bytes at an offset in units of 64, or NULL, which is an error, when the file does not hold all of them. */
const uint8_t *bytes_at(Reader *reader, int32_t offset, uint64_t bytes);
/** @returns whether the tensor is valid */
int read_tensor(Reader *reader, const TensorDescription *from, Tensor *tensor);
/** Returns a tensor of the model, or NULL for -1, which is an error when `isNeeded`. */
const Tensor *tensor_at(Reader *reader, const Kernel *kernel, int32_t index, int isNeeded);
/** Returns the weights of a product with these sizes. */
const Tensor *weights_at(Reader *reader, const Kernel *kernel, int32_t index, int32_t numOut, int32_t numIn, int isNeeded);
/** Returns a table of rows of this width, or NULL for -1. */
const Tensor *table_at(Reader *reader, const Kernel *kernel, int32_t index, int32_t numIn);
/** Returns a norm, padded to whole panels: a table of one row or two. */
Norm norm_at(Reader *reader, const Kernel *kernel, int32_t index, int32_t size);
