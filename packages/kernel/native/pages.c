// Memory of keys and values, and copies of its pages. The order of numbers in a page is the same on all instruction sets.

#include "memory.h"
#include "phases.h"
#include "platform.h"

/** Sets the sizes of pages of a kernel. */
static void set_sizes(const Kernel *kernel, Pages *pages) {
  const Layer *layer = &kernel->layers[0];
  size_t scaleBytes = pages->type == KV_BYTE ? sizeof(float) : 0;
  pages->headPageBytes = 2 * PAGE_TOKENS * ((size_t)layer->paddedHead * (size_t)kv_bytes(pages->type) + scaleBytes);
  pages->pageBytes = pages->headPageBytes * (size_t)layer->description.numKvHeads;
}

/** Returns the number of layers whose keys and values are kept: those of an encoder end with their layer. */
static int32_t kept_layers(const Kernel *kernel) { return kernel->model.isEncoder ? 1 : kernel->model.numLayers; }

int are_pages_of(const Kernel *kernel, const Pages *pages) {
  Pages own = *pages;
  set_sizes(kernel, &own);
  return pages->memory && pages->numLayers == kept_layers(kernel) && pages->headPageBytes == own.headPageBytes &&
         pages->pageBytes == own.pageBytes;
}

int kernel_open_pages(const Kernel *kernel, int32_t numPages, int32_t type, Pages *pages) {
  *pages = (Pages){.numPages = numPages, .numLayers = kept_layers(kernel), .type = (KvType)type};
  if (type < KV_FLOAT || type > KV_BYTE) return -1;
  set_sizes(kernel, pages);
  uint64_t layerPages = (uint64_t)pages->numLayers * (uint64_t)numPages;
  if (numPages < 1 || layerPages > SIZE_MAX / pages->pageBytes) return -1;
  pages->memory = platform_allocate((size_t)layerPages * pages->pageBytes);
  return pages->memory ? 0 : -1;
}

void kernel_close_pages(Pages *pages) {
  platform_free(pages->memory);
  pages->memory = NULL;
}

/** Finds a page in one layer. */
static uint8_t *page_at(const Pages *pages, int32_t layer, int32_t page) {
  return pages->memory + ((size_t)layer * (size_t)pages->numPages + (size_t)page) * pages->pageBytes;
}

static const char *check_copy(const Pages *pages, int32_t page, size_t length) {
  if (page < 0 || page >= pages->numPages) return "a page";
  return length == (size_t)pages->numLayers * pages->pageBytes ? NULL : "room for a page of all layers";
}

const char *kernel_read_page(const Pages *pages, int32_t page, uint8_t *bytes, size_t length) {
  const char *error = check_copy(pages, page, length);
  for (int32_t layer = 0; !error && layer < pages->numLayers; layer++)
    memcpy(bytes + (size_t)layer * pages->pageBytes, page_at(pages, layer, page), pages->pageBytes);
  return error;
}

const char *kernel_write_page(const Pages *pages, int32_t page, const uint8_t *bytes, size_t length) {
  const char *error = check_copy(pages, page, length);
  for (int32_t layer = 0; !error && layer < pages->numLayers; layer++)
    memcpy(page_at(pages, layer, page), bytes + (size_t)layer * pages->pageBytes, pages->pageBytes);
  return error;
}
