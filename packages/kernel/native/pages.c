// Memory of keys and values, and copies of its pages. The order of numbers in a page is the same on all instruction sets.

#include "memory.h"
#include "phases.h"
#include "platform.h"

/** Returns the number of layers whose keys and values are kept: those of an encoder end with their layer. */
static int32_t kept_layers(const Kernel *kernel) { return kernel->model.isEncoder ? 1 : kernel->numPaged; }

/** Returns the end of a page's bytes in each layer that keeps keys and values, one layer after another. */
static size_t page_end(const Kernel *kernel, KvType type, int32_t keptLayer, size_t start) {
  const Layer *layer = kernel->paged[keptLayer];
  size_t scaleBytes = type == KV_BYTE ? sizeof(float) : 0;
  size_t headBytes = 2 * PAGE_TOKENS * ((size_t)layer->paddedHead * (size_t)kv_bytes(type) + scaleBytes);
  return start + headBytes * (size_t)layer->description.numKvHeads;
}

int are_pages_of(const Kernel *kernel, const Pages *pages) {
  if (!pages->memory || pages->numLayers != kept_layers(kernel) || pages->stateFloats != kernel->stateFloats) return 0;
  for (int32_t l = 0; l < pages->numLayers; l++)
    if (pages->starts[l + 1] != page_end(kernel, pages->type, l, pages->starts[l])) return 0;
  return 1;
}

int kernel_open_pages(const Kernel *kernel, int32_t numPages, int32_t numStates, int32_t type, Pages *pages) {
  *pages = (Pages){.numPages = numPages, .numLayers = kept_layers(kernel), .numStates = numStates, .type = (KvType)type, .stateFloats = kernel->stateFloats};
  if (type < KV_FLOAT || type > KV_BYTE || numPages < 1 || numStates < 0 || numPages > INT32_MAX - numStates) return -1;
  pages->starts = platform_allocate(((size_t)pages->numLayers + 1) * sizeof(size_t));
  if (!pages->starts) return -1;
  pages->starts[0] = 0;
  for (int32_t l = 0; l < pages->numLayers; l++) pages->starts[l + 1] = page_end(kernel, pages->type, l, pages->starts[l]);
  size_t pageBytes = pages->starts[pages->numLayers], stateBytes = pages->stateFloats * sizeof(float);
  int fits = (pageBytes == 0 || (size_t)numPages <= (SIZE_MAX - 1) / pageBytes) && (stateBytes == 0 || (size_t)numStates <= (SIZE_MAX - 1) / stateBytes);
  pages->memory = fits ? platform_allocate((size_t)numPages * pageBytes + 1) : NULL;
  pages->states = fits ? platform_allocate((size_t)numStates * stateBytes + 1) : NULL;
  if (pages->memory && pages->states) return 0;
  kernel_close_pages(pages);
  return -1;
}

void kernel_close_pages(Pages *pages) {
  platform_free(pages->memory);
  platform_free(pages->states);
  platform_free(pages->starts);
  pages->memory = NULL;
  pages->states = NULL;
  pages->starts = NULL;
}

/** Copies a page of all layers, or a state, from the memory to `bytes`, or back. */
static const char *copy_page(const Pages *pages, int32_t page, uint8_t *bytes, size_t length, int isWritten) {
  if (!pages->memory || page < 0 || page >= (int64_t)pages->numPages + pages->numStates) return "a page";
  int isState = page >= pages->numPages;
  size_t stateBytes = pages->stateFloats * sizeof(float);
  if (length != (isState ? stateBytes : pages->starts[pages->numLayers])) return "room for a page of all layers";
  uint8_t *state = (uint8_t *)pages->states + (size_t)(page - pages->numPages) * stateBytes;
  if (isState) {
    memcpy(isWritten ? state : bytes, isWritten ? bytes : state, stateBytes);
    return NULL;
  }
  for (int32_t l = 0; l < pages->numLayers; l++) {
    size_t start = pages->starts[l], size = pages->starts[l + 1] - start;
    uint8_t *own = pages->memory + (size_t)pages->numPages * start + (size_t)page * size;
    memcpy(isWritten ? own : bytes + start, isWritten ? bytes + start : own, size);
  }
  return NULL;
}

const char *kernel_read_page(const Pages *pages, int32_t page, uint8_t *bytes, size_t length) { return copy_page(pages, page, bytes, length, 0); }

const char *kernel_write_page(const Pages *pages, int32_t page, const uint8_t *bytes, size_t length) {
  return copy_page(pages, page, (uint8_t *)bytes, length, 1);
}
