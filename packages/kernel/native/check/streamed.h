// Steps whose experts are placed before each layer, in memory of exactly their size, and taken away behind it.

#pragma once
#include "model.h"
#include "request.h"

/** The file's bytes from an expert's first part to the end of its last one. */
size_t unit_bytes(const Tensor *filed);
/** As `kernel_run`. */
const char *run_streamed(const Opened *opened, const int32_t *request, size_t length, const Results *results);
