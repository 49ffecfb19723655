// Units of streamed experts, one layer of one expert each. Their tensors point to their current addresses.

#include "memory.h"
#include "phases.h"

/** Returns the bytes from an expert's first part to the end of a tensor, or 0 when the tensor begins before it. */
static size_t end_of(const Tensor *tensor, const uint8_t *start) {
  size_t outputBytes = (size_t)tensor->numPanels * PANEL * 4, end = 0;
  const struct { const uint8_t *at; size_t bytes; } parts[] = {
      {tensor->weights, (size_t)tensor->numPanels * tensor->panelBytes},
      {(const uint8_t *)tensor->scales, outputBytes},
      {(const uint8_t *)tensor->bias, outputBytes},
  };
  for (int i = 0; i < 3; i++) {
    if (!parts[i].at) continue;
    if (parts[i].at < start) return 0;
    size_t own = (size_t)(parts[i].at - start) + parts[i].bytes;
    if (own > end) end = own;
  }
  return end;
}

static const uint8_t *moved(const void *part, const uint8_t *from, const uint8_t *to) {
  return part && to ? to + ((const uint8_t *)part - from) : NULL;
}

size_t kernel_unit_index(const Kernel *kernel, int32_t layer, int32_t expert) {
  return (size_t)kernel->layers[layer].description.firstExpert + 3 * (size_t)expert;
}

const char *kernel_place(Kernel *kernel, int32_t layer, int32_t expert, const uint8_t *unit, size_t bytes) {
  if (!kernel->filed) return "a kernel whose experts are streamed";
  if (layer < 0 || layer >= kernel->model.numLayers || !kernel->layers[layer].experts) return "a layer with experts";
  if (expert < 0 || expert >= kernel->layers[layer].numExperts) return "an expert";
  if ((uintptr_t)unit % 64 != 0) return "weights at a multiple of 64 bytes";
  size_t first = kernel_unit_index(kernel, layer, expert);
  const uint8_t *start = kernel->filed[first].weights;
  for (size_t i = first; unit && i < first + 3; i++) {
    size_t end = end_of(&kernel->filed[i], start);
    if (end == 0 || end > bytes) return "all bytes of an expert's layer";
  }
  for (size_t i = first; i < first + 3; i++) {
    const Tensor *filed = &kernel->filed[i];
    kernel->tensors[i].weights = moved(filed->weights, start, unit);
    kernel->tensors[i].scales = (const float *)moved(filed->scales, start, unit);
    kernel->tensors[i].bias = (const float *)moved(filed->bias, start, unit);
  }
  return NULL;
}

/** Checks that all weights that every step needs are in memory. */
static int is_shared_there(const Kernel *kernel) {
  if ((kernel->head && !kernel->head->weights) || !kernel->embedding->weights) return 0;
  if (kernel->fusion && !kernel->fusion->weights) return 0;
  if (kernel->layerTable && (!kernel->layerTable->weights || !kernel->layerProjection->weights)) return 0;
  for (int32_t l = 0; l < kernel->model.numLayers; l++) {
    const Layer *layer = &kernel->layers[l];
    const Tensor *const shared[] = {layer->query, layer->key,  layer->value, layer->attentionOutput,
                                    layer->gate,  layer->up, layer->down,  layer->router, layer->inputGate, layer->inputOutput, layer->queryLow};
    for (int i = 0; i < 11; i++)
      if (shared[i] && !shared[i]->weights) return 0;
    for (int32_t i = 0; layer->heads && i < 2 * layer->description.numHeads; i++)
      if (!layer->heads[i].weights) return 0;
  }
  return 1;
}

int stream_experts(Kernel *kernel) {
  memcpy(kernel->filed, kernel->tensors, (size_t)kernel->model.numTensors * sizeof(Tensor));
  for (int32_t l = 0; l < kernel->model.numLayers; l++)
    for (int32_t e = 0; kernel->layers[l].experts && e < kernel->layers[l].numExperts; e++) kernel_place(kernel, l, e, NULL, 0);
  return is_shared_there(kernel);
}
