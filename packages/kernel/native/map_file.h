// Files in memory. Pages are read on first access, and shared by all processes that map the same file.

#pragma once
#include <stddef.h>

typedef struct {
  const void *bytes;
  size_t size;
} MappedFile;

/** @param path - UTF-8 @returns 0, or -1 when the file cannot be mapped */
int map_file(const char *path, MappedFile *file);
void unmap_file(MappedFile *file);
