// Steps whose experts are placed before each layer, in memory of exactly their size, and taken away behind it.

#pragma once
#include "model.h"
#include "request.h"

/** As `kernel_run`. */
const char *run_streamed(const Opened *opened, const int32_t *request, size_t length, const Results *results);
