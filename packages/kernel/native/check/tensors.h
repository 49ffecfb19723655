// Random tensors in the layout of the packed file.

#pragma once
#include "random.h"
#include "tensor.h"
#include "kernel.h"

enum { MOST_TENSORS = 256 };

/** Tensors and the bytes that they refer to, offsets counted from the first of these bytes. */
typedef struct {
  TensorDescription tensors[MOST_TENSORS];
  int32_t numTensors;
  uint8_t *bytes;
  size_t size, room;
} Pack;

/** Adds weights; what fills up panels and groups is zero. @returns the tensor's index */
int32_t add_weights(Pack *pack, Random *random, Format format, int32_t numOut, int32_t numIn);
/** Adds a norm, or a layer norm, or none at random: -1. */
int32_t add_norm(Pack *pack, Random *random, int32_t size, int isNeeded);
