// Memory of the platform.

#pragma once
#include <stddef.h>

/** Zeroed, 64-byte aligned memory that takes no room before it is touched; NULL where there is none. */
void *platform_allocate(size_t bytes);
void platform_free(void *memory);

/** Gives memory that is free in the process back to the system, where the C library keeps it otherwise. */
void platform_return_free(void);
