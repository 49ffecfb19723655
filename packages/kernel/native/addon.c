// The kernel as a Node-API addon. Arguments are checked here again, so that no caller can make native code read beyond
// its memory.

#include <stdlib.h>
#include "held.h"
#include "map_file.h"
#include "memory.h"
#include "pack_rows.h"
#include "platform.h"
#include "processor.h"
#include "read_rows.h"
#include "request.h"
#include "rows_product.h"

/** Kinds of handles. */
typedef enum { KIND_KERNEL, KIND_PAGES, KIND_WEIGHTS, KIND_TEAM, KINDS } Kind;

/** Number of arrays of a step's results, the last arguments of `step` and `begin`. */
enum { RESULT_ARRAYS = 5 };

typedef struct {
  /** The environment whose functions get the handle. */
  napi_env env;
  /** NULL when the kernel is closed. */
  Kernel *kernel;
  MappedFile file;
  /** Weights that are not in a file. */
  void *bytes;
  /** Pages and arrays of results of the step that began last. */
  napi_ref begun[1 + RESULT_ARRAYS];
  /** Units of experts by the index of their first tensor, and loras by slot. */
  HeldArrays units, loras;
} Opened;

static void end_begun(napi_env env, Opened *opened) {
  for (int i = 0; i <= RESULT_ARRAYS; i++) let_go(env, &opened->begun[i]);
}

static void close_opened(napi_env env, Opened *opened) {
  if (opened->kernel) kernel_close(opened->kernel);
  unmap_file(&opened->file);
  platform_free(opened->bytes);
  end_begun(env, opened);
  let_all_go(env, &opened->units);
  let_all_go(env, &opened->loras);
  *opened = (Opened){.env = env};
}

static void finalize(napi_env env, void *data, void *hint) {
  (void)hint;
  close_opened(env, data);
  free(data);
}

/** Memory that is filled with a packed file, and then belongs to a kernel. */
typedef struct {
  uint8_t *bytes;
  size_t size;
} Weights;

static void finalize_weights(napi_env env, void *data, void *hint) {
  (void)env, (void)hint;
  platform_free(((Weights *)data)->bytes);
  free(data);
}

static void finalize_pages(napi_env env, void *data, void *hint) {
  (void)env, (void)hint;
  kernel_close_pages(data);
  free(data);
}

/** Returns a tag that no object but this loaded addon's have: another version of it has other handles. */
static napi_type_tag tag_of(Kind kind) {
  static const char PLACES[KINDS];
  return (napi_type_tag){(uint64_t)(uintptr_t)&PLACES[kind], 0x8a3cf1d7405be296u};
}

/** Makes a handle. @returns NULL when there is none; `data` is the caller's then */
static napi_value new_handle(napi_env env, Kind kind, void *data, napi_finalize end) {
  napi_value handle;
  napi_type_tag tag = tag_of(kind);
  int isMade = napi_create_object(env, &handle) == napi_ok && napi_type_tag_object(env, handle, &tag) == napi_ok &&
               napi_wrap(env, handle, data, end, NULL, NULL) == napi_ok;
  return isMade ? handle : NULL;
}

/** Returns the memory of a handle of one kind, or NULL. */
static void *handle_of(napi_env env, napi_value value, Kind kind) {
  napi_type_tag tag = tag_of(kind);
  napi_valuetype type;
  bool isKind = false;
  void *data = NULL;
  // A value that is no object would be turned into one, or throw another error.
  if (napi_typeof(env, value, &type) != napi_ok || type != napi_object) return NULL;
  if (napi_check_object_type_tag(env, value, &tag, &isKind) != napi_ok || !isKind) return NULL;
  return napi_unwrap(env, value, &data) == napi_ok ? data : NULL;
}

static Opened *opened_of(napi_env env, napi_value value) {
  Opened *opened = handle_of(env, value, KIND_KERNEL);
  if (opened && opened->kernel) return opened;
  napi_throw_type_error(env, NULL, "Expected a kernel that is open");
  return NULL;
}

static Pages *pages_of(napi_env env, napi_value value) {
  Pages *pages = handle_of(env, value, KIND_PAGES);
  if (pages && pages->memory) return pages;
  napi_throw_type_error(env, NULL, "Expected pages that are open");
  return NULL;
}

/** instructionSets(): returns the names of the loops that the processor can run, the fastest first. */
static napi_value instruction_sets(napi_env env, napi_callback_info info) {
  (void)info;
  const Loops *available[4];
  int count = available_loops(available);
  napi_value names, name;
  napi_create_array(env, &names);
  for (int i = 0; i < count; i++) {
    napi_create_string_utf8(env, available[i]->name, NAPI_AUTO_LENGTH, &name);
    napi_set_element(env, names, (uint32_t)i, name);
  }
  return names;
}

/** newWeights(bytes): allocates memory for a packed file, of zeros. */
static napi_value new_weights(napi_env env, napi_callback_info info) {
  napi_value values[1], handle;
  double size;
  if (!arguments(env, info, 1, values) || napi_get_value_double(env, values[0], &size) != napi_ok || !(size >= 1 && size <= 0x1p48))
    return throw_range(env, "Expected a number of bytes");
  Weights *weights = calloc(1, sizeof *weights);
  if (weights && (weights->bytes = platform_allocate((size_t)size))) {
    weights->size = (size_t)size;
    if ((handle = new_handle(env, KIND_WEIGHTS, weights, finalize_weights))) return handle;
    platform_free(weights->bytes);
  }
  free(weights);
  return throw_range(env, "memory for weights");
}

/** Finds `length` bytes from a place on, in an array or in the memory of `newWeights`; NULL if they are not there. */
static uint8_t *target_of(napi_env env, napi_value target, napi_value place, uint64_t length) {
  Weights *weights = handle_of(env, target, KIND_WEIGHTS);
  void *bytes = weights ? weights->bytes : NULL;
  size_t size = weights ? weights->size : 0;
  double at;
  if (!weights && !elements(env, target, napi_uint8_array, &bytes, &size)) return NULL;
  if (!bytes || napi_get_value_double(env, place, &at) != napi_ok || !(at >= 0 && at <= (double)size) || length > size - (size_t)at) return NULL;
  return (uint8_t *)bytes + (size_t)at;
}

/** writeWeights(weights, place, Uint8Array): copies bytes. */
static napi_value write_weights(napi_env env, napi_callback_info info) {
  napi_value values[3];
  void *bytes;
  size_t length;
  if (!arguments(env, info, 3, values) || !elements(env, values[2], napi_uint8_array, &bytes, &length))
    return throw_range(env, "Expected weights, a place and bytes");
  uint8_t *target = target_of(env, values[0], values[1], length);
  if (!target) return throw_range(env, "Expected bytes that the weights have room for");
  if (length > 0) memcpy(target, bytes, length);
  return NULL;
}

static void pack_panels(void *context, Member *member) {
  const RowsToPack *rows = context;
  EACH_TASK(member, panel, (rows->numRows + PANEL - 1) / PANEL) pack_panel(rows, panel);
}

/**
 * packRows(array or weights, place, Int32Array of format, source, inputs and threads, Uint8Array of rows, Float32Array of factors of inputs,
 * Float32Array for scales): packs rows of a file, on all threads.
 */
static napi_value pack_rows(napi_env env, napi_callback_info info) {
  napi_value values[6];
  void *options, *bytes, *inputs, *scales;
  size_t numOptions, length, numInputs, numScales;
  if (!arguments(env, info, 6, values) || !elements(env, values[2], napi_int32_array, &options, &numOptions) || numOptions != 4 ||
      !elements(env, values[3], napi_uint8_array, &bytes, &length) || !elements(env, values[4], napi_float32_array, &inputs, &numInputs) ||
      !elements(env, values[5], napi_float32_array, &scales, &numScales))
    return throw_range(env, "Expected memory, a place, four options, rows, factors and room for scales");
  const int32_t *option = options, threads = option[3];
  RowsToPack rows = {.format = option[0], .source = option[1], .numIn = option[2], .rows = bytes, .inputs = numInputs > 0 ? inputs : NULL, .scales = scales};
  if (threads < 1 || threads > TEAM_MOST_THREADS) return throw_range(env, "Expected a number of threads");
  if (!count_rows(&rows, length)) return throw_range(env, "Expected whole rows of a format that they can be packed in");
  if (numInputs > 0 && numInputs != (size_t)rows.numIn) return throw_range(env, "Expected a factor for each input");
  if (numScales != (rows.format == FORMAT_INT8 ? (size_t)rows.numRows : 0)) return throw_range(env, "Expected room for a scale of each row that is rounded");
  rows.out = target_of(env, values[0], values[1], (uint64_t)((rows.numRows + PANEL - 1) / PANEL) * packed_panel_bytes(&rows));
  if (!rows.out) return throw_range(env, "Expected memory that has room for the rows");
  Team team = {.numThreads = 0};
  if (team_start(&team, threads) != 0) return throw_range(env, "memory for threads");
  team_run(&team, pack_panels, &rows);
  team_end(&team);
  return NULL;
}

static const Loops *loops_named(const char *name) {
  const Loops *available[4];
  int count = available_loops(available);
  for (int i = 0; i < count; i++)
    if (strcmp(available[i]->name, name) == 0) return available[i];
  return NULL;
}

static void end_team(Team *team) {
  if (team->numThreads > 0) team_end(team);
  team->numThreads = 0;
}

static void finalize_team(napi_env env, void *data, void *hint) {
  (void)env, (void)hint;
  end_team(data);
  platform_free(data);
}

/** startTeam(threads): starts threads for `multiplyRows`. */
static napi_value start_team(napi_env env, napi_callback_info info) {
  napi_value values[1], handle;
  int32_t threads;
  if (!arguments(env, info, 1, values) || napi_get_value_int32(env, values[0], &threads) != napi_ok || threads < 1 || threads > TEAM_MOST_THREADS)
    return throw_range(env, "Expected a number of threads");
  Team *team = platform_allocate(sizeof *team);
  if (!team || team_start(team, threads) != 0) {
    platform_free(team);
    return throw_range(env, "memory for threads");
  }
  if ((handle = new_handle(env, KIND_TEAM, team, finalize_team))) return handle;
  finalize_team(env, team, NULL);
  return throw_range(env, "memory for threads");
}

/** endTeam(team): ends its threads now. */
static napi_value end_team_of(napi_env env, napi_callback_info info) {
  napi_value values[1];
  Team *team = arguments(env, info, 1, values) ? handle_of(env, values[0], KIND_TEAM) : NULL;
  if (!team) return throw_range(env, "Expected a team");
  end_team(team);
  return NULL;
}

/**
 * multiplyRows(team, weights, instructions, Int32Array of a TensorDescription, Float32Array of rows, Float32Array for outputs): see
 * `multiply_rows`.
 */
static napi_value multiply_any_rows(napi_env env, napi_callback_info info) {
  napi_value values[6];
  char instructions[32];
  void *tensor, *rows, *out;
  size_t length, numNumbers, numInputs, numOutputs;
  if (!arguments(env, info, 6, values) || napi_get_value_string_utf8(env, values[2], instructions, sizeof instructions, &length) != napi_ok ||
      !elements(env, values[3], napi_int32_array, &tensor, &numNumbers) || numNumbers * sizeof(int32_t) != sizeof(TensorDescription) ||
      !elements(env, values[4], napi_float32_array, &rows, &numInputs) || !elements(env, values[5], napi_float32_array, &out, &numOutputs))
    return throw_range(env, "Expected a team, weights, a name, a tensor, rows and room for outputs");
  Team *team = handle_of(env, values[0], KIND_TEAM);
  const Weights *weights = handle_of(env, values[1], KIND_WEIGHTS);
  if (!team || team->numThreads == 0) return throw_range(env, "Expected a team that has not ended");
  if (!weights || !weights->bytes) return throw_range(env, "Expected weights that no kernel has");
  RowsProduct product = {.file = weights->bytes, .bytes = weights->size, .loops = loops_named(instructions), .team = team, .rows = rows, .out = out};
  if (!product.loops) return throw_range(env, "Expected instructions that this processor has");
  memcpy(&product.tensor, tensor, sizeof product.tensor);
  const size_t numIn = (size_t)product.tensor.numIn, numOut = (size_t)product.tensor.numOut;
  if (product.tensor.numIn < 1 || product.tensor.numOut < 1 || numInputs % numIn != 0 || numInputs / numIn > INT32_MAX)
    return throw_range(env, "Expected whole rows");
  product.numRows = (int32_t)(numInputs / numIn);
  if (numOutputs % numOut != 0 || numOutputs / numOut != numInputs / numIn) return throw_range(env, "Expected room for the outputs of each row");
  const char *error = multiply_rows(&product);
  return error ? throw_range(env, error) : NULL;
}

/** Maps a file by its path, takes the memory of `newWeights`, or copies bytes from any address. @returns NULL, or the error */
static const char *read_weights(napi_env env, napi_value value, Opened *opened, const void **bytes, size_t *size) {
  enum { MOST_PATH = 32768 };
  void *data;
  Weights *weights = handle_of(env, value, KIND_WEIGHTS);
  if (weights) {
    *bytes = opened->bytes = weights->bytes;
    *size = weights->size;
    *weights = (Weights){NULL, 0};
    return *bytes ? NULL : "Expected weights that no kernel has";
  }
  if (elements(env, value, napi_uint8_array, &data, size)) {
    opened->bytes = platform_allocate(*size);
    if (!opened->bytes) return "memory";
    memcpy(opened->bytes, data, *size);
    *bytes = opened->bytes;
    return NULL;
  }
  char *path = malloc(MOST_PATH);
  size_t length;
  const char *error = "the file cannot be mapped";
  if (path && napi_get_value_string_utf8(env, value, path, MOST_PATH, &length) == napi_ok && length < MOST_PATH - 1 && strlen(path) == length &&
      map_file(path, &opened->file) == 0)
    error = NULL;
  free(path);
  *bytes = opened->file.bytes;
  *size = opened->file.size;
  return error;
}

/** See `Lender`: arrays that were placed. */
static int is_there(void *context, Lent lent, size_t index) {
  const Opened *opened = context;
  return is_still_there(opened->env, lent == LENT_UNIT ? &opened->units : &opened->loras, index);
}

/** open(path, weights or bytes, instructions, Int32Array of KernelOptions) */
static napi_value open_kernel(napi_env env, napi_callback_info info) {
  napi_value values[3], handle = NULL;
  char instructions[32];
  size_t length, size = 0;
  void *data;
  KernelOptions options;
  if (!arguments(env, info, 3, values) || napi_get_value_string_utf8(env, values[1], instructions, sizeof instructions, &length) != napi_ok ||
      !elements(env, values[2], napi_int32_array, &data, &length) || length * sizeof(int32_t) != sizeof options)
    return throw_range(env, "Expected weights, a name and options");
  memcpy(&options, data, sizeof options);
  const Loops *loops = loops_named(instructions);
  if (!loops) return throw_range(env, "Expected instructions that this processor has");
  Opened *opened = calloc(1, sizeof *opened);
  if (!opened) return throw_range(env, "memory");
  opened->env = env;
  const void *bytes = NULL;
  const char *error = read_weights(env, values[0], opened, &bytes, &size);
  if (!error) opened->kernel = kernel_open(bytes, size, &options, loops, &error);
  if (opened->kernel) kernel_lend(opened->kernel, (Lender){opened, is_there});
  if (opened->kernel && (handle = new_handle(env, KIND_KERNEL, opened, finalize))) return handle;
  close_opened(env, opened);
  free(opened);
  return throw_range(env, error ? error : "memory");
}

/** openPages(kernel, numPages, numStates, type): see `KvType`. */
static napi_value open_pages(napi_env env, napi_callback_info info) {
  napi_value values[4], handle;
  int32_t numPages, numStates, type;
  if (!arguments(env, info, 4, values) || napi_get_value_int32(env, values[1], &numPages) != napi_ok ||
      napi_get_value_int32(env, values[2], &numStates) != napi_ok || napi_get_value_int32(env, values[3], &type) != napi_ok)
    return throw_range(env, "Expected a kernel, numbers of pages and of states, and the precision of pages");
  Opened *opened = opened_of(env, values[0]);
  if (!opened) return NULL;
  Pages *pages = calloc(1, sizeof *pages);
  if (pages && kernel_open_pages(opened->kernel, numPages, numStates, type, pages) == 0) {
    if ((handle = new_handle(env, KIND_PAGES, pages, finalize_pages))) return handle;
    kernel_close_pages(pages);
  }
  free(pages);
  return throw_range(env, "memory for pages");
}

/** closePages(pages): frees their memory now. */
static napi_value close_pages(napi_env env, napi_callback_info info) {
  napi_value values[1];
  if (!arguments(env, info, 1, values)) return throw_range(env, "Expected pages");
  Pages *pages = handle_of(env, values[0], KIND_PAGES);
  if (!pages) return throw_range(env, "Expected pages");
  kernel_close_pages(pages);
  return NULL;
}

typedef const char *(*CopyPage)(const Pages *pages, int32_t page, uint8_t *bytes, size_t length);

static const char *write_page_of(const Pages *pages, int32_t page, uint8_t *bytes, size_t length) {
  return kernel_write_page(pages, page, bytes, length);
}

static napi_value copy_page(napi_env env, napi_callback_info info, CopyPage copy) {
  napi_value values[3];
  int32_t page;
  void *bytes;
  size_t length;
  if (!arguments(env, info, 3, values) || napi_get_value_int32(env, values[1], &page) != napi_ok ||
      !elements(env, values[2], napi_uint8_array, &bytes, &length))
    return throw_range(env, "Expected pages, a page and its bytes");
  const Pages *pages = pages_of(env, values[0]);
  const char *error = pages ? copy(pages, page, bytes, length) : NULL;
  return error ? throw_range(env, error) : NULL;
}

/** readPage(pages, page, Uint8Array): see `kernel_read_page`. */
static napi_value read_page(napi_env env, napi_callback_info info) { return copy_page(env, info, kernel_read_page); }

/** writePage(pages, page, Uint8Array): see `kernel_write_page`. */
static napi_value write_page(napi_env env, napi_callback_info info) { return copy_page(env, info, write_page_of); }

/** rotary(kernel, set, position, Float32Array): sets cosines, then sines, of successive positions. */
static napi_value set_rotary(napi_env env, napi_callback_info info) {
  napi_value values[4];
  int32_t set, position;
  void *data;
  size_t length;
  if (!arguments(env, info, 4, values) || napi_get_value_int32(env, values[1], &set) != napi_ok ||
      napi_get_value_int32(env, values[2], &position) != napi_ok || !elements(env, values[3], napi_float32_array, &data, &length))
    return throw_range(env, "Expected a kernel, a set, a position and angles");
  Opened *opened = opened_of(env, values[0]);
  if (!opened) return NULL;
  const char *error = kernel_set_rotary(opened->kernel, set, position, data, length);
  return error ? throw_range(env, error) : NULL;
}

/** Finds the memory of arrays for results. @returns whether they are such arrays */
static int results_of(napi_env env, const napi_value *values, Results *results) {
  void *ids, *logits, *sums, *full, *squares;
  if (!elements(env, values[0], napi_int32_array, &ids, &results->numCandidateIds) ||
      !elements(env, values[1], napi_float32_array, &logits, &results->numLogits) ||
      !elements(env, values[2], napi_float64_array, &sums, &results->numSums) ||
      !elements(env, values[3], napi_float32_array, &full, &results->numFullLogits) ||
      !elements(env, values[4], napi_float32_array, &squares, &results->numInputSquares))
    return 0;
  results->candidateIds = ids;
  results->logits = logits;
  results->sums = sums;
  results->fullLogits = full;
  results->inputSquares = squares;
  return 1;
}

typedef const char *(*RunStep)(Kernel *kernel, const Pages *pages, const int32_t *request, size_t length, const Results *results);

/** @returns the kernel if it ran; else an error was thrown */
static Opened *call_step(napi_env env, const napi_value *values, RunStep run) {
  void *request;
  size_t length;
  Results results;
  if (!elements(env, values[2], napi_int32_array, &request, &length) || !results_of(env, values + 3, &results)) {
    throw_range(env, "Expected a kernel, pages, a request and room for its results");
    return NULL;
  }
  Opened *opened = opened_of(env, values[0]);
  const Pages *pages = opened ? pages_of(env, values[1]) : NULL;
  if (!pages) return NULL;
  end_begun(env, opened);
  const char *error = run(opened->kernel, pages, request, length, &results);
  if (!error) return opened;
  throw_range(env, error);
  return NULL;
}

/** step(kernel, pages, request, candidateIds, logits, sums, fullLogits, inputSquares): see `kernel_run`. */
static napi_value step(napi_env env, napi_callback_info info) {
  napi_value values[3 + RESULT_ARRAYS];
  if (!arguments(env, info, 3 + RESULT_ARRAYS, values)) return throw_range(env, "Expected a kernel, pages, a request and room for its results");
  call_step(env, values, kernel_run);
  return NULL;
}

/** begin(…): like `step`. Pages and arrays for results are kept until the step ends. */
static napi_value begin(napi_env env, napi_callback_info info) {
  napi_value values[3 + RESULT_ARRAYS];
  if (!arguments(env, info, 3 + RESULT_ARRAYS, values)) return throw_range(env, "Expected a kernel, pages, a request and room for its results");
  Opened *opened = call_step(env, values, kernel_begin_run);
  if (!opened) return NULL;
  int isKept = napi_create_reference(env, values[1], 1, &opened->begun[0]) == napi_ok;
  for (int i = 1; i <= RESULT_ARRAYS; i++) isKept &= napi_create_reference(env, values[2 + i], 1, &opened->begun[i]) == napi_ok;
  if (isKept) return NULL;
  kernel_move_results(opened->kernel, &(Results){.numLogits = 0});
  return throw_range(env, "memory");
}

/** Finds what the step that has begun points to, which may have changed. @returns whether it is there; else an error was thrown */
static int has_begun(napi_env env, Opened *opened) {
  napi_value values[1 + RESULT_ARRAYS];
  Results results = {.numLogits = 0};
  for (int i = 0; i <= RESULT_ARRAYS; i++) {
    if (opened->begun[i] && napi_get_reference_value(env, opened->begun[i], &values[i]) == napi_ok) continue;
    throw_range(env, "a step that has begun");
    return 0;
  }
  if (!pages_of(env, values[0])) return 0;
  const char *error = results_of(env, values + 1, &results) ? kernel_move_results(opened->kernel, &results) : "room for the results";
  if (error) throw_range(env, error);
  return !error;
}

/** runLayers(kernel, from, to): see `kernel_run_layers`. */
static napi_value run_layers(napi_env env, napi_callback_info info) {
  napi_value values[3];
  int32_t from, to;
  if (!arguments(env, info, 3, values) || napi_get_value_int32(env, values[1], &from) != napi_ok ||
      napi_get_value_int32(env, values[2], &to) != napi_ok)
    return throw_range(env, "Expected a kernel and layers");
  Opened *opened = opened_of(env, values[0]);
  const char *error = opened && has_begun(env, opened) ? kernel_run_layers(opened->kernel, from, to) : NULL;
  return error ? throw_range(env, error) : NULL;
}

/** Reads a kernel and a layer of its step. @returns whether the step has begun; else an error was thrown */
static int kernel_and_layer(napi_env env, napi_callback_info info, Opened **opened, int32_t *layer) {
  napi_value values[2];
  if (!arguments(env, info, 2, values) || napi_get_value_int32(env, values[1], layer) != napi_ok) {
    throw_range(env, "Expected a kernel and a layer");
    return 0;
  }
  return (*opened = opened_of(env, values[0])) != NULL && has_begun(env, *opened);
}

/** routeLayer(kernel, layer): see `kernel_route`. @returns an Int32Array of the chosen experts */
static napi_value route_layer(napi_env env, napi_callback_info info) {
  Opened *opened;
  int32_t layer;
  if (!kernel_and_layer(env, info, &opened, &layer)) return NULL;
  const char *error = kernel_route(opened->kernel, layer);
  if (error) return throw_range(env, error);
  size_t length;
  const int32_t *chosen = kernel_chosen(opened->kernel, &length);
  void *data;
  napi_value buffer, result;
  if (napi_create_arraybuffer(env, length * sizeof *chosen, &data, &buffer) != napi_ok ||
      napi_create_typedarray(env, napi_int32_array, length, buffer, 0, &result) != napi_ok)
    return throw_range(env, "memory");
  if (length > 0) memcpy(data, chosen, length * sizeof *chosen);
  return result;
}

/** feedLayer(kernel, layer): see `kernel_feed`. */
static napi_value feed_layer(napi_env env, napi_callback_info info) {
  Opened *opened;
  int32_t layer;
  const char *error = kernel_and_layer(env, info, &opened, &layer) ? kernel_feed(opened->kernel, layer) : NULL;
  return error ? throw_range(env, error) : NULL;
}

/** end(kernel): see `kernel_end`. */
static napi_value end(napi_env env, napi_callback_info info) {
  napi_value values[1];
  if (!arguments(env, info, 1, values)) return throw_range(env, "Expected a kernel");
  Opened *opened = opened_of(env, values[0]);
  if (!opened || !has_begun(env, opened)) return NULL;
  const char *error = kernel_end(opened->kernel);
  if (error) return throw_range(env, error);
  end_begun(env, opened);
  return NULL;
}

/** writeStream(kernel, Float32Array): see `kernel_write_stream`. */
static napi_value write_stream(napi_env env, napi_callback_info info) {
  napi_value values[2];
  void *rows;
  size_t length;
  if (!arguments(env, info, 2, values) || !elements(env, values[1], napi_float32_array, &rows, &length))
    return throw_range(env, "Expected a kernel and rows");
  Opened *opened = opened_of(env, values[0]);
  const char *error = opened && has_begun(env, opened) ? kernel_write_stream(opened->kernel, rows, length) : NULL;
  return error ? throw_range(env, error) : NULL;
}

/** readStates(kernel, states, Float32Array): see `kernel_read_states`. */
static napi_value read_states(napi_env env, napi_callback_info info) {
  napi_value values[3];
  int32_t states;
  void *rows;
  size_t length;
  if (!arguments(env, info, 3, values) || napi_get_value_int32(env, values[1], &states) != napi_ok || states < STATES_STREAM ||
      states > STATES_GATED || !elements(env, values[2], napi_float32_array, &rows, &length))
    return throw_range(env, "Expected a kernel, states and room for them");
  Opened *opened = opened_of(env, values[0]);
  const char *error = opened ? kernel_read_states(opened->kernel, (States)states, rows, length) : NULL;
  return error ? throw_range(env, error) : NULL;
}

/** tap(kernel, Int32Array): see `kernel_tap`. */
static napi_value tap(napi_env env, napi_callback_info info) {
  napi_value values[2];
  void *layers;
  size_t count;
  if (!arguments(env, info, 2, values) || !elements(env, values[1], napi_int32_array, &layers, &count))
    return throw_range(env, "Expected a kernel and layers");
  Opened *opened = opened_of(env, values[0]);
  if (!opened) return NULL;
  end_begun(env, opened);
  const char *error = kernel_tap(opened->kernel, layers, count);
  return error ? throw_range(env, error) : NULL;
}

/** readEmbeddings(kernel, Int32Array, Float32Array): see `kernel_read_embeddings`. */
static napi_value read_embeddings(napi_env env, napi_callback_info info) {
  napi_value values[3];
  void *tokens, *rows;
  size_t count, length;
  if (!arguments(env, info, 3, values) || !elements(env, values[1], napi_int32_array, &tokens, &count) ||
      !elements(env, values[2], napi_float32_array, &rows, &length))
    return throw_range(env, "Expected a kernel, tokens and room for rows");
  Opened *opened = opened_of(env, values[0]);
  const char *error = opened ? kernel_read_embeddings(opened->kernel, tokens, count, rows, length) : NULL;
  return error ? throw_range(env, error) : NULL;
}

/** readTaps(kernel, Float32Array): see `kernel_read_taps`. */
static napi_value read_taps(napi_env env, napi_callback_info info) {
  napi_value values[2];
  void *rows;
  size_t length;
  if (!arguments(env, info, 2, values) || !elements(env, values[1], napi_float32_array, &rows, &length))
    return throw_range(env, "Expected a kernel and room for rows");
  Opened *opened = opened_of(env, values[0]);
  const char *error = opened ? kernel_read_taps(opened->kernel, rows, length) : NULL;
  return error ? throw_range(env, error) : NULL;
}

/** place(kernel, layer, expert, Uint8Array): see `kernel_place`. An empty array removes the weights. */
static napi_value place(napi_env env, napi_callback_info info) {
  napi_value values[4];
  int32_t layer, expert;
  void *unit;
  size_t bytes;
  if (!arguments(env, info, 4, values) || napi_get_value_int32(env, values[1], &layer) != napi_ok ||
      napi_get_value_int32(env, values[2], &expert) != napi_ok || !elements(env, values[3], napi_uint8_array, &unit, &bytes))
    return throw_range(env, "Expected a kernel, a layer, an expert and its bytes");
  Opened *opened = opened_of(env, values[0]);
  if (!opened) return NULL;
  const char *error = kernel_place(opened->kernel, layer, expert, bytes > 0 ? unit : NULL, bytes);
  if (!error && !hold(env, &opened->units, kernel_unit_index(opened->kernel, layer, expert), values[3], unit, bytes))
    error = "memory";
  return error ? throw_range(env, error) : NULL;
}

/** placeLora(kernel, slot, Uint8Array): see `kernel_place_lora`. An empty array removes the lora. */
static napi_value place_lora(napi_env env, napi_callback_info info) {
  napi_value values[3];
  int32_t slot;
  void *lora;
  size_t bytes;
  if (!arguments(env, info, 3, values) || napi_get_value_int32(env, values[1], &slot) != napi_ok ||
      !elements(env, values[2], napi_uint8_array, &lora, &bytes))
    return throw_range(env, "Expected a kernel, a slot and a lora's bytes");
  Opened *opened = opened_of(env, values[0]);
  if (!opened) return NULL;
  const char *error = kernel_place_lora(opened->kernel, slot, bytes > 0 ? lora : NULL, bytes);
  if (!error && !hold(env, &opened->loras, (size_t)slot, values[2], lora, bytes)) error = "memory";
  return error ? throw_range(env, error) : NULL;
}

/** readLogits(kernel, wanted, Float32Array): see `kernel_read_logits`. @returns whether the logits are kept */
static napi_value read_logits(napi_env env, napi_callback_info info) {
  napi_value values[3];
  int32_t wanted;
  void *logits;
  size_t length;
  if (!arguments(env, info, 3, values) || napi_get_value_int32(env, values[1], &wanted) != napi_ok ||
      !elements(env, values[2], napi_float32_array, &logits, &length))
    return throw_range(env, "Expected a kernel, a row and room for its logits");
  Opened *opened = opened_of(env, values[0]);
  if (!opened) return NULL;
  int isKept = kernel_keeps_logits(opened->kernel, wanted);
  const char *error = isKept ? kernel_read_logits(opened->kernel, wanted, logits, length) : NULL;
  if (error) return throw_range(env, error);
  napi_value result;
  napi_get_boolean(env, isKept, &result);
  return result;
}

/** close(kernel): ends its threads and frees its memory. */
static napi_value close_kernel(napi_env env, napi_callback_info info) {
  napi_value values[1];
  if (!arguments(env, info, 1, values)) return throw_range(env, "Expected a kernel");
  Opened *opened = opened_of(env, values[0]);
  if (opened) close_opened(env, opened);
  return NULL;
}

/** returnFreeMemory(): see `platform_return_free`. */
static napi_value return_free_memory(napi_env env, napi_callback_info info) {
  (void)env, (void)info;
  platform_return_free();
  return NULL;
}

/** keepFreeMemory(): see `platform_keep_free`. */
static napi_value keep_free_memory(napi_env env, napi_callback_info info) {
  (void)env, (void)info;
  platform_keep_free();
  return NULL;
}

NAPI_MODULE_INIT() {
  const struct {
    const char *name;
    napi_callback call;
  } functions[] = {
      {"instructionSets", instruction_sets}, {"open", open_kernel}, {"openPages", open_pages}, {"closePages", close_pages},
      {"readPage", read_page}, {"writePage", write_page},
      {"rotary", set_rotary}, {"step", step}, {"begin", begin}, {"runLayers", run_layers}, {"routeLayer", route_layer},
      {"feedLayer", feed_layer}, {"end", end}, {"writeStream", write_stream}, {"readStates", read_states},
      {"tap", tap}, {"readTaps", read_taps}, {"readEmbeddings", read_embeddings},
      {"place", place}, {"placeLora", place_lora}, {"readLogits", read_logits}, {"close", close_kernel},
      {"returnFreeMemory", return_free_memory}, {"keepFreeMemory", keep_free_memory},
      {"newWeights", new_weights}, {"writeWeights", write_weights}, {"packRows", pack_rows},
      {"startTeam", start_team}, {"endTeam", end_team_of}, {"multiplyRows", multiply_any_rows},
#ifndef _WIN32
      // Numbers of open files belong to Node's own library there.
      {"readRows", read_rows},
#endif
  };
  for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++) {
    napi_value function;
    napi_create_function(env, functions[i].name, NAPI_AUTO_LENGTH, functions[i].call, NULL, &function);
    napi_set_named_property(env, exports, functions[i].name, function);
  }
  return exports;
}
