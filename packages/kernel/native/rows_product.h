// Products of rows with one packed tensor outside of models, on the threads of any team.

#pragma once
#include "kernel.h"

typedef struct {
  /** Packed weights, 64-byte aligned, and where the tensor is among them. */
  const void *file;
  size_t bytes;
  TensorDescription tensor;
  const Loops *loops;
  /** No work may be running on it. */
  Team *team;
  int32_t numRows;
  /** `[numRows][numIn]` */
  const float *rows;
  /** `[numRows][numOut]` */
  float *out;
} RowsProduct;

/** Multiplies rows. @returns NULL, or the part of the arguments that does not fit; nothing has run then */
const char *multiply_rows(const RowsProduct *product);
