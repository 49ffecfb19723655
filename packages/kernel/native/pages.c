// Memory of keys and values, and copies of its pages. The order of numbers in a page is the same on all instruction sets.

#include "memory.h"
#include "phases.h"
#include "platform.h"

/** Sets the sizes of pages of a kernel. */
static void set_sizes(const Kernel *kernel, Pages *pages) {
  const Layer *layer = kernel->firstPaged;
  pages->stateFloats = kernel->stateFloats;
  // A piece of a model may have no attention.
  pages->headPageBytes = pages->pageBytes = sizeof(float);
  if (!layer) return;
  size_t scaleBytes = pages->type == KV_BYTE ? sizeof(float) : 0;
  pages->headPageBytes = 2 * PAGE_TOKENS * ((size_t)layer->paddedHead * (size_t)kv_bytes(pages->type) + scaleBytes);
  pages->pageBytes = pages->headPageBytes * (size_t)layer->description.numKvHeads;
}

/** Returns the number of layers whose keys and values are kept: those of an encoder end with their layer. */
static int32_t kept_layers(const Kernel *kernel) { return kernel->model.isEncoder ? 1 : kernel->numPaged; }

int are_pages_of(const Kernel *kernel, const Pages *pages) {
  Pages own = *pages;
  set_sizes(kernel, &own);
  return pages->memory && pages->numLayers == kept_layers(kernel) && pages->headPageBytes == own.headPageBytes &&
         pages->pageBytes == own.pageBytes && pages->stateFloats == own.stateFloats;
}

int kernel_open_pages(const Kernel *kernel, int32_t numPages, int32_t numStates, int32_t type, Pages *pages) {
  *pages = (Pages){.numPages = numPages, .numLayers = kept_layers(kernel), .numStates = numStates, .type = (KvType)type};
  if (type < KV_FLOAT || type > KV_BYTE) return -1;
  set_sizes(kernel, pages);
  uint64_t layerPages = (uint64_t)pages->numLayers * (uint64_t)numPages;
  if (numPages < 1 || numPages > INT32_MAX - numStates || layerPages > SIZE_MAX / pages->pageBytes) return -1;
  uint64_t stateBytes = (uint64_t)pages->stateFloats * sizeof(float);
  if (numStates < 0 || (stateBytes > 0 && (uint64_t)numStates > SIZE_MAX / stateBytes)) return -1;
  pages->memory = platform_allocate((size_t)layerPages * pages->pageBytes + 1);
  pages->states = platform_allocate((size_t)numStates * (size_t)stateBytes + 1);
  if (pages->memory && pages->states) return 0;
  kernel_close_pages(pages);
  return -1;
}

void kernel_close_pages(Pages *pages) {
  platform_free(pages->memory);
  platform_free(pages->states);
  pages->memory = NULL;
  pages->states = NULL;
}

/** Finds a page in one layer, or a state. */
static uint8_t *page_at(const Pages *pages, int32_t layer, int32_t page) {
  if (page >= pages->numPages) return (uint8_t *)(pages->states + (size_t)(page - pages->numPages) * pages->stateFloats);
  return pages->memory + ((size_t)layer * (size_t)pages->numPages + (size_t)page) * pages->pageBytes;
}

/** Number of parts of a page that are copied, and the size of each. */
static int32_t parts_of(const Pages *pages, int32_t page, size_t *bytes) {
  *bytes = page < pages->numPages ? pages->pageBytes : pages->stateFloats * sizeof(float);
  return page < pages->numPages ? pages->numLayers : 1;
}

static const char *check_copy(const Pages *pages, int32_t page, size_t length) {
  if (page < 0 || page >= (int64_t)pages->numPages + pages->numStates) return "a page";
  size_t bytes, parts = (size_t)parts_of(pages, page, &bytes);
  return length == parts * bytes ? NULL : "room for a page of all layers";
}

const char *kernel_read_page(const Pages *pages, int32_t page, uint8_t *bytes, size_t length) {
  const char *error = check_copy(pages, page, length);
  size_t size = 0;
  int32_t numParts = error ? 0 : parts_of(pages, page, &size);
  for (int32_t part = 0; part < numParts; part++) memcpy(bytes + (size_t)part * size, page_at(pages, part, page), size);
  return error;
}

const char *kernel_write_page(const Pages *pages, int32_t page, const uint8_t *bytes, size_t length) {
  const char *error = check_copy(pages, page, length);
  size_t size = 0;
  int32_t numParts = error ? 0 : parts_of(pages, page, &size);
  for (int32_t part = 0; part < numParts; part++) memcpy(page_at(pages, part, page), bytes + (size_t)part * size, size);
  return error;
}
