// Reading and packing of rows of model files on threads of Node's pool.

#pragma once
#include "values.h"

/**
 * readRows(descriptor, offset, Uint8Array, place, Int32Array of format, inputs and rows): packs rows of an open file into an array, which
 * must not shrink or be transferred meanwhile. @returns a promise, rejected when the file does not hold the rows
 */
napi_value read_rows(napi_env env, napi_callback_info info);
