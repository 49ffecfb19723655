// Random loras of a packed model.

#pragma once
#include "kernel.h"
#include "random.h"

/** Makes a lora in memory of exactly its size, which the caller frees. */
uint8_t *make_lora(Random *random, const ModelDescription *model, const LayerDescription *layers, const TensorDescription *tensors, size_t *bytes);
