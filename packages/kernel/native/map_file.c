#include "map_file.h"

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#include <stdlib.h>

int map_file(const char *path, MappedFile *file) {
  // Threads open files at the same time, so each has a buffer of its own.
  int length = MultiByteToWideChar(CP_UTF8, 0, path, -1, NULL, 0);
  WCHAR *wide = length > 0 ? malloc((size_t)length * sizeof *wide) : NULL;
  HANDLE handle = INVALID_HANDLE_VALUE;
  if (wide && MultiByteToWideChar(CP_UTF8, 0, path, -1, wide, length) == length)
    handle = CreateFileW(wide, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_DELETE, NULL, OPEN_EXISTING, 0, NULL);
  free(wide);
  if (handle == INVALID_HANDLE_VALUE) return -1;
  LARGE_INTEGER size = {.QuadPart = 0};
  HANDLE mapping = GetFileSizeEx(handle, &size) ? CreateFileMappingW(handle, NULL, PAGE_READONLY, 0, 0, NULL) : NULL;
  void *bytes = mapping ? MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, 0) : NULL;
  // A view keeps the file open by itself.
  if (mapping) CloseHandle(mapping);
  CloseHandle(handle);
  *file = (MappedFile){bytes, (size_t)size.QuadPart};
  return bytes ? 0 : -1;
}

void unmap_file(MappedFile *file) {
  if (file->bytes) UnmapViewOfFile(file->bytes);
  file->bytes = NULL;
}
#else
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int map_file(const char *path, MappedFile *file) {
  int descriptor = open(path, O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return -1;
  struct stat status;
  void *bytes = MAP_FAILED;
  if (fstat(descriptor, &status) == 0 && status.st_size > 0)
    bytes = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, descriptor, 0);
  close(descriptor);
  if (bytes == MAP_FAILED) return -1;
  madvise(bytes, (size_t)status.st_size, MADV_WILLNEED);
  *file = (MappedFile){bytes, (size_t)status.st_size};
  return 0;
}

void unmap_file(MappedFile *file) {
  if (file->bytes) munmap((void *)file->bytes, file->size);
  file->bytes = NULL;
}
#endif
