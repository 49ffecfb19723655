// Memory of the platform.

#pragma once
#include <stddef.h>

/** Zeroed, 64-byte aligned memory that takes no room before it is touched; NULL where there is none. */
void *platform_allocate(size_t bytes);
void platform_free(void *memory);
