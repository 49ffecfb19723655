#include "platform.h"
#include <stdint.h>
#include "memory.h"

#ifdef __wasm__
// Memory is allocated at the end of the heap; a freed block is used again when it is large enough.
extern unsigned char __heap_base;
static size_t end;

enum { MOST_FREED = 256 };
static struct { size_t at, bytes; } freed[MOST_FREED];

void *platform_allocate(size_t bytes) {
  if (bytes > 0xfff00000u) return NULL;
  bytes = (bytes + 127) / 64 * 64;
  for (int i = 0; i < MOST_FREED; i++) {
    if (freed[i].bytes < bytes - 64) continue;
    size_t at = freed[i].at;
    memset((void *)at, 0, freed[i].bytes);
    freed[i].bytes = 0;
    return (void *)at;
  }
  if (end == 0) end = ((size_t)&__heap_base + 63) / 64 * 64;
  size_t from = end, have = __builtin_wasm_memory_size(0) * (size_t)65536;
  if (bytes > 0xffff0000u - from) return NULL;
  if (from + bytes > have && __builtin_wasm_memory_grow(0, (from + bytes - have + 65535) / 65536) == (size_t)-1) return NULL;
  end = from + bytes;
  // A block's size is stored before it.
  *(size_t *)from = bytes;
  return (void *)(from + 64);
}

void platform_free(void *memory) {
  if (!memory) return;
  size_t at = (size_t)memory;
  for (int i = 0; i < MOST_FREED; i++) {
    if (freed[i].bytes > 0) continue;
    freed[i].at = at;
    freed[i].bytes = *(size_t *)(at - 64) - 64;
    return;
  }
}
void platform_return_free(void) {}
void platform_keep_free(void) {}
#else
#include <stdlib.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

void platform_return_free(void) {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

void platform_keep_free(void) {
#ifdef __GLIBC__
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, INT32_MAX);
#endif
}

// Large blocks of `calloc` are fresh pages of the system, which are zero without being written.
void *platform_allocate(size_t bytes) {
  if (bytes > SIZE_MAX - 128) return NULL;
  unsigned char *block = calloc(1, bytes + 128);
  if (!block) return NULL;
  unsigned char *aligned = (unsigned char *)(((uintptr_t)block + 64 + 63) / 64 * 64);
  ((void **)(void *)aligned)[-1] = block;
  return aligned;
}

void platform_free(void *memory) {
  if (memory) free(((void **)memory)[-1]);
}
#endif
