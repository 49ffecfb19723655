// Objects of JavaScript that native code points to. References keep them, and arrays are looked up again before each
// use: their buffers can be transferred or shrink.

#pragma once
#include <stdlib.h>
#include "memory.h"
#include "values.h"

/** An array of bytes, and where they were. */
typedef struct {
  napi_ref reference;
  const void *bytes;
  size_t length;
} Held;

/** Arrays by index. */
typedef struct {
  Held *all;
  size_t count;
} HeldArrays;

static inline void let_go(napi_env env, napi_ref *reference) {
  if (*reference) napi_delete_reference(env, *reference);
  *reference = NULL;
}

/** Holds an array in place of the one before; an empty one only lets go of that. @returns 0 when there is no memory */
static inline int hold(napi_env env, HeldArrays *arrays, size_t index, napi_value array, const void *bytes, size_t length) {
  if (index >= arrays->count) {
    if (length == 0) return 1;
    size_t count = index + 1 + index / 2;
    Held *all = realloc(arrays->all, count * sizeof *all);
    if (!all) return 0;
    memset(all + arrays->count, 0, (count - arrays->count) * sizeof *all);
    *arrays = (HeldArrays){all, count};
  }
  Held *held = &arrays->all[index];
  let_go(env, &held->reference);
  *held = (Held){NULL, bytes, length};
  return length == 0 || napi_create_reference(env, array, 1, &held->reference) == napi_ok;
}

/** Checks that an array still has its bytes where they were. */
static inline int is_still_there(napi_env env, const HeldArrays *arrays, size_t index) {
  const Held *held = index < arrays->count ? &arrays->all[index] : NULL;
  napi_handle_scope scope;
  if (!held || !held->reference || napi_open_handle_scope(env, &scope) != napi_ok) return 0;
  napi_value value;
  void *bytes;
  size_t length;
  int isThere = napi_get_reference_value(env, held->reference, &value) == napi_ok && value &&
                elements(env, value, napi_uint8_array, &bytes, &length) && bytes == held->bytes && length >= held->length;
  napi_close_handle_scope(env, scope);
  return isThere;
}

static inline void let_all_go(napi_env env, HeldArrays *arrays) {
  for (size_t i = 0; i < arrays->count; i++) let_go(env, &arrays->all[i].reference);
  free(arrays->all);
  *arrays = (HeldArrays){NULL, 0};
}
