#include "streamed.h"
#include <stdlib.h>

size_t unit_bytes(const Tensor *filed) {
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

static int is_chosen(const Kernel *kernel, int32_t expert) {
  size_t length;
  const int32_t *chosen = kernel_chosen(kernel, &length);
  for (size_t i = 0; i < length; i++)
    if (chosen[i] == expert) return 1;
  return 0;
}

/** Runs a layer with all its experts, or a mixture, if `isRouted`, with those that rows use. */
static const char *run_layer_streamed(Kernel *kernel, int32_t layer, int isRouted) {
  int32_t numExperts = kernel->layers[layer].experts ? kernel->layers[layer].numExperts : 0;
  uint8_t **units = calloc((size_t)numExperts + 1, sizeof *units);
  if (!units) abort();
  size_t numChosen = 0;
  const char *error = isRouted ? kernel_route(kernel, layer) : NULL;
  if (isRouted && !error) kernel_chosen(kernel, &numChosen);
  if (numChosen > 0 && !kernel_feed(kernel, layer)) error = "a mixture ran without its experts";
  // Memory of the units that ran last is free by now.
  int32_t numRows = (layer == kernel->model.numLayers - 1 ? &kernel->wanted : &kernel->all)->numRows;
  if (!isRouted && numExperts > 0 && numRows > 0 && !kernel_run_layers(kernel, layer, layer + 1)) error = "a layer ran without its experts";
  for (int32_t e = 0; e < numExperts && !error; e++) {
    if (isRouted && !is_chosen(kernel, e)) continue;
    const Tensor *filed = &kernel->filed[kernel->layers[layer].description.firstExpert + 3 * e];
    size_t bytes = unit_bytes(filed);
    units[e] = aligned_copy(filed[0].weights, bytes);
    error = kernel_place(kernel, layer, e, units[e], bytes);
    if (!error && bytes > 0 && !kernel_place(kernel, layer, e, units[e], bytes - 1)) error = "a unit without its last byte was taken";
  }
  if (isRouted && !error && !kernel_run_layers(kernel, layer, layer + 1)) error = "a layer ran a second time";
  if (!error) error = isRouted ? kernel_feed(kernel, layer) : kernel_run_layers(kernel, layer, layer + 1);
  for (int32_t e = 0; e < numExperts; e++) {
    kernel_place(kernel, layer, e, NULL, 0);
    free(units[e]);
  }
  free(units);
  return error;
}

const char *run_streamed(const Opened *opened, const int32_t *request, size_t length, const Results *results) {
  const char *error = kernel_begin_run(opened->kernel, &opened->pages, request, length, results);
  for (int32_t l = 0; l < opened->kernel->model.numLayers && !error; l++)
    error = run_layer_streamed(opened->kernel, l, opened->kernel->layers[l].router && (length + (size_t)l) % 4 != 0);
  return error ? error : kernel_end(opened->kernel);
}
