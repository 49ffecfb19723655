// Checks the kernel: `check bits|files|requests|team SEED MODELS [THREADS]`.

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "check.h"

noreturn void wrong(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fputc('\n', stderr);
  exit(1);
}

int main(int count, char **arguments) {
  if (count < 4) wrong("Expected what to check, a seed and a number of models or programs");
  const char *what = arguments[1];
  uint64_t seed = strtoull(arguments[2], NULL, 10);
  int32_t numModels = (int32_t)strtol(arguments[3], NULL, 10), threads = count > 4 ? (int32_t)strtol(arguments[4], NULL, 10) : 1;
  if (strcmp(what, "bits") == 0) printf("%016llx\n", (unsigned long long)check_bits(seed, numModels, threads));
  else if (strcmp(what, "files") == 0) check_files(seed, numModels);
  else if (strcmp(what, "requests") == 0) check_requests(seed, numModels);
  else if (strcmp(what, "team") == 0) check_team(seed, numModels, threads);
  else wrong("Expected bits, files, requests or team, got %s", what);
  return 0;
}
