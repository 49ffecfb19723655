#include "streamed.h"
#include <stdlib.h>

/** The file's bytes from an expert's first part to the end of its last one. */
static size_t unit_bytes(const Tensor *filed) {
  size_t most = 0;
  for (int i = 0; i < 3; i++) {
    size_t outputBytes = (size_t)filed[i].numPanels * PANEL * 4;
    const uint8_t *end = filed[i].weights + (size_t)filed[i].numPanels * filed[i].panelBytes;
    if (filed[i].scales) end = (const uint8_t *)filed[i].scales + outputBytes;
    if (filed[i].bias) end = (const uint8_t *)filed[i].bias + outputBytes;
    if (end > filed[0].weights && (size_t)(end - filed[0].weights) > most) most = (size_t)(end - filed[0].weights);
  }
  return most;
}

static const char *run_layer_streamed(Kernel *kernel, int32_t layer) {
  int32_t numExperts = kernel->layers[layer].experts ? kernel->model.numExperts : 0;
  uint8_t **units = calloc((size_t)numExperts + 1, sizeof *units);
  if (!units) abort();
  const char *error = NULL;
  for (int32_t e = 0; e < numExperts && !error; e++) {
    const Tensor *filed = &kernel->filed[kernel->layers[layer].description.firstExpert + 3 * e];
    size_t bytes = unit_bytes(filed);
    units[e] = aligned_copy(filed[0].weights, bytes);
    error = kernel_place(kernel, layer, e, units[e], bytes);
    if (!error && bytes > 0 && !kernel_place(kernel, layer, e, units[e], bytes - 1)) error = "a unit without its last byte was taken";
  }
  if (!error) error = kernel_run_layers(kernel, layer, layer + 1);
  for (int32_t e = 0; e < numExperts; e++) {
    kernel_place(kernel, layer, e, NULL, 0);
    free(units[e]);
  }
  free(units);
  return error;
}

const char *run_streamed(const Opened *opened, const int32_t *request, size_t length, const Results *results) {
  const char *error = kernel_begin_run(opened->kernel, &opened->pages, request, length, results);
  for (int32_t l = 0; l < opened->kernel->model.numLayers && !error; l++) error = run_layer_streamed(opened->kernel, l);
  return error ? error : kernel_end(opened->kernel);
}
