// Files in memory: pages are read when they are touched, and shared by all processes that map the same file.

#pragma once
#include <stddef.h>

typedef struct {
  const void *bytes;
  size_t size;
} MappedFile;

/** @param path - UTF-8 @returns 0, or -1 where the file cannot be mapped */
int map_file(const char *path, MappedFile *file);
void unmap_file(MappedFile *file);
