// Memory of the platform.

#pragma once
#include <stddef.h>

/** Allocates zeroed, 64-byte aligned memory, which takes no physical memory before it is touched; NULL on failure. */
void *platform_allocate(size_t bytes);
void platform_free(void *memory);

/** Returns memory that is free in the process to the system, if the C library keeps it. */
void platform_return_free(void);
/** Makes the process keep memory that it frees from now on, if the C library has a choice: fresh pages are zeroed one by one. */
void platform_keep_free(void);
