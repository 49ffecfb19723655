#include "read_rows.h"

#ifndef _WIN32
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "pack_rows.h"
#include "tensor.h"

/** Bytes of a file that are read at once, where they are more than one panel: few enough to stay in the cache until they are packed. */
enum { CHUNK_BYTES = 1 << 16 };

/** Rows that are read and packed. */
typedef struct {
  napi_async_work work;
  napi_deferred deferred;
  /** Keeps the array. */
  napi_ref target;
  RowsToPack rows;
  int descriptor;
  off_t offset;
  char error[96];
} Reading;

/** Reads exactly `length` bytes. @returns whether the file holds them */
static int read_bytes(Reading *reading, uint8_t *bytes, size_t length, off_t offset) {
  for (size_t done = 0; done < length;) {
    ssize_t count = pread(reading->descriptor, bytes + done, length - done, offset + (off_t)done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) snprintf(reading->error, sizeof reading->error, "error %d of the system", errno);
    if (count == 0) snprintf(reading->error, sizeof reading->error, "the file ends at byte %lld", (long long)offset + (long long)done);
    if (count <= 0) return 0;
    done += (size_t)count;
  }
  return 1;
}

static void run_reading(napi_env env, void *data) {
  (void)env;
  Reading *reading = data;
  const RowsToPack *rows = &reading->rows;
  size_t rowBytes = packed_row_bytes(rows), panelBytes = packed_panel_bytes(rows);
  int32_t numPanels = (int32_t)(CHUNK_BYTES / (rowBytes * PANEL)), most = (numPanels > 0 ? numPanels : 1) * PANEL;
  if (most > rows->numRows) most = rows->numRows;
  uint8_t *chunk = malloc((size_t)most * rowBytes);
#ifdef POSIX_FADV_WILLNEED
  // The system reads all rows at once while the first ones are packed.
  posix_fadvise(reading->descriptor, reading->offset, (off_t)(rowBytes * (size_t)rows->numRows), POSIX_FADV_WILLNEED);
#endif
  if (!chunk) snprintf(reading->error, sizeof reading->error, "there is no memory for rows");
  for (int32_t first = 0; chunk && first < rows->numRows; first += most) {
    RowsToPack own = *rows;
    own.numRows = rows->numRows - first < most ? rows->numRows - first : most;
    own.rows = chunk;
    own.out += (size_t)(first / PANEL) * panelBytes;
    if (!read_bytes(reading, chunk, (size_t)own.numRows * rowBytes, reading->offset + (off_t)((size_t)first * rowBytes))) break;
    for (int32_t panel = 0; panel * PANEL < own.numRows; panel++) pack_panel(&own, panel);
  }
  free(chunk);
}

static void end_reading(napi_env env, napi_status status, void *data) {
  Reading *reading = data;
  napi_value text, result;
  if (status != napi_ok) snprintf(reading->error, sizeof reading->error, "reading was cancelled");
  if (reading->error[0] == 0) {
    napi_get_undefined(env, &result);
    napi_resolve_deferred(env, reading->deferred, result);
  } else {
    napi_create_string_utf8(env, reading->error, NAPI_AUTO_LENGTH, &text);
    napi_create_error(env, NULL, text, &result);
    napi_reject_deferred(env, reading->deferred, result);
  }
  napi_delete_reference(env, reading->target);
  napi_delete_async_work(env, reading->work);
  free(reading);
}

/** Begins to read. @returns the promise, or NULL when there is no memory */
static napi_value begin_reading(napi_env env, Reading *reading, napi_value target) {
  napi_value promise, name;
  if (napi_create_reference(env, target, 1, &reading->target) != napi_ok) return NULL;
  if (napi_create_string_utf8(env, "readRows", NAPI_AUTO_LENGTH, &name) == napi_ok &&
      napi_create_async_work(env, NULL, name, run_reading, end_reading, reading, &reading->work) == napi_ok) {
    if (napi_create_promise(env, &reading->deferred, &promise) == napi_ok && napi_queue_async_work(env, reading->work) == napi_ok) return promise;
    napi_delete_async_work(env, reading->work);
  }
  napi_delete_reference(env, reading->target);
  return NULL;
}

napi_value read_rows(napi_env env, napi_callback_info info) {
  napi_value values[5];
  int32_t descriptor;
  int64_t offset, place;
  void *target, *options;
  size_t size, numOptions;
  if (!arguments(env, info, 5, values) || napi_get_value_int32(env, values[0], &descriptor) != napi_ok ||
      napi_get_value_int64(env, values[1], &offset) != napi_ok || !elements(env, values[2], napi_uint8_array, &target, &size) ||
      napi_get_value_int64(env, values[3], &place) != napi_ok || !elements(env, values[4], napi_int32_array, &options, &numOptions) || numOptions != 3)
    return throw_range(env, "Expected a file, an offset, memory, a place and three options");
  const int32_t *option = options;
  RowsToPack rows = {.format = option[0], .source = option[0], .numIn = option[1], .numRows = option[2]};
  size_t panelBytes = rows.format == FORMAT_INT8 ? 0 : packed_panel_bytes(&rows);
  if (panelBytes == 0 || rows.numRows < 1 || rows.numRows > INT32_MAX / 2 || offset < 0) return throw_range(env, "Expected rows that can be packed as they are");
  uint64_t bytes = (uint64_t)((rows.numRows + PANEL - 1) / PANEL) * panelBytes;
  if (place < 0 || (uint64_t)place > size || bytes > size - (uint64_t)place) return throw_range(env, "Expected memory that has room for the rows");
  rows.out = (uint8_t *)target + place;
  Reading *reading = calloc(1, sizeof *reading);
  if (!reading) return throw_range(env, "memory");
  reading->rows = rows, reading->descriptor = descriptor, reading->offset = (off_t)offset;
  napi_value promise = begin_reading(env, reading, values[2]);
  if (promise) return promise;
  free(reading);
  return throw_range(env, "memory");
}
#endif
