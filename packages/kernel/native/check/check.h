// What the program checks, each over random models from a seed. All end the program where something is wrong.

#pragma once
#include <stdint.h>
#include <stdnoreturn.h>

/** Prints what is wrong, and ends the program. */
noreturn void wrong(const char *format, ...) __attribute__((format(printf, 1, 2)));

/**
 * All loops of this machine give the bits of the plain ones with any number of threads, and a sequence the same alone as among others.
 * @returns a digest of all results
 */
uint64_t check_bits(uint64_t seed, int32_t numModels, int32_t mostThreads);
/** Damaged files are turned down or run without touching what is not theirs. */
void check_files(uint64_t seed, int32_t numModels);
/** So are requests that cannot be, and the kernel goes on as if they had not come. */
void check_requests(uint64_t seed, int32_t numModels);
/** A team of threads runs each task of random programs once, in the order of phases, also beside a suspended thread. */
void check_team(uint64_t seed, int32_t numPrograms, int32_t numThreads);
