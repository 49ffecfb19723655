// The kernel as a WebAssembly module. Pointers are numbers, and the host's workers are the other threads.

#include "memory.h"
#include "pack_rows.h"
#include "platform.h"
#include "processor.h"
#include "request.h"

#define EXPORT(name) __attribute__((export_name(#name)))

static const char *error;

/** Allocates memory for the packed file and for requests; 0 on failure. */
EXPORT(allocate) void *allocate(size_t bytes) { return platform_allocate(bytes); }

/** Frees memory of `allocate`. */
EXPORT(release) void release(void *memory) { platform_free(memory); }

EXPORT(open) Kernel *open_kernel(const void *file, size_t bytes, const KernelOptions *options, int isPlain) {
  const Loops *available[4];
  int count = available_loops(available);
  error = NULL;
  return kernel_open(file, bytes, options, available[isPlain ? count - 1 : 0], &error);
}

EXPORT(rotary) const char *set_rotary(Kernel *kernel, int32_t set, int32_t position, const float *angles, size_t length) {
  return kernel_set_rotary(kernel, set, position, angles, length);
}

EXPORT(open_pages) Pages *open_pages(const Kernel *kernel, int32_t numPages, int32_t numStates, int32_t type) {
  Pages *pages = platform_allocate(sizeof *pages);
  if (!pages || kernel_open_pages(kernel, numPages, numStates, type, pages) == 0) return pages;
  platform_free(pages);
  return NULL;
}

EXPORT(close_pages) void close_pages(Pages *pages) {
  kernel_close_pages(pages);
  platform_free(pages);
}

EXPORT(read_page) const char *read_page(const Pages *pages, int32_t page, uint8_t *bytes, size_t length) {
  return kernel_read_page(pages, page, bytes, length);
}

EXPORT(write_page) const char *write_page(const Pages *pages, int32_t page, const uint8_t *bytes, size_t length) {
  return kernel_write_page(pages, page, bytes, length);
}

EXPORT(step) const char *step(Kernel *kernel, const Pages *pages, const int32_t *request, size_t length, const Results *results) {
  return kernel_run(kernel, pages, request, length, results);
}

EXPORT(begin) const char *begin(Kernel *kernel, const Pages *pages, const int32_t *request, size_t length, const Results *results) {
  return kernel_begin_run(kernel, pages, request, length, results);
}

EXPORT(run_layers) const char *run_layers(Kernel *kernel, int32_t from, int32_t to) { return kernel_run_layers(kernel, from, to); }

EXPORT(route_layer) const char *route_layer(Kernel *kernel, int32_t layer) { return kernel_route(kernel, layer); }

/** Returns the experts of the last `route_layer`, and writes their number. */
EXPORT(chosen) const int32_t *chosen(const Kernel *kernel, size_t *length) { return kernel_chosen(kernel, length); }

EXPORT(feed_layer) const char *feed_layer(Kernel *kernel, int32_t layer) { return kernel_feed(kernel, layer); }

EXPORT(end) const char *end(Kernel *kernel) { return kernel_end(kernel); }

EXPORT(write_stream) const char *write_stream(Kernel *kernel, const float *rows, size_t length) { return kernel_write_stream(kernel, rows, length); }

EXPORT(read_states) const char *read_states(const Kernel *kernel, int32_t states, float *rows, size_t length) {
  return kernel_read_states(kernel, (States)states, rows, length);
}

EXPORT(tap) const char *tap(Kernel *kernel, const int32_t *layers, size_t count) { return kernel_tap(kernel, layers, count); }

EXPORT(read_embeddings) const char *read_embeddings(const Kernel *kernel, const int32_t *tokens, size_t count, float *rows, size_t length) {
  return kernel_read_embeddings(kernel, tokens, count, rows, length);
}

EXPORT(read_taps) const char *read_taps(const Kernel *kernel, float *rows, size_t length) { return kernel_read_taps(kernel, rows, length); }

EXPORT(place) const char *place(Kernel *kernel, int32_t layer, int32_t expert, const uint8_t *unit, size_t bytes) {
  return kernel_place(kernel, layer, expert, unit, bytes);
}

EXPORT(place_lora) const char *place_lora(Kernel *kernel, int32_t slot, const uint8_t *bytes, size_t length) {
  return kernel_place_lora(kernel, slot, bytes, length);
}

EXPORT(keeps_logits) int keeps_logits(const Kernel *kernel, int32_t wanted) { return kernel_keeps_logits(kernel, wanted); }

EXPORT(read_logits) const char *read_logits(const Kernel *kernel, int32_t wanted, float *logits, size_t length) {
  return kernel_read_logits(kernel, wanted, logits, length);
}

/** Packs rows into whole panels. @returns their bytes, 0 when the rows cannot be packed */
EXPORT(pack_rows) size_t pack_rows(RowsToPack *rows, size_t length) {
  if (!count_rows(rows, length)) return 0;
  int32_t numPanels = (rows->numRows + PANEL - 1) / PANEL;
  for (int32_t panel = 0; panel < numPanels; panel++) pack_panel(rows, panel);
  return (size_t)numPanels * packed_panel_bytes(rows);
}

/** Returns the reason why `open` failed, as a text that ends in 0. */
EXPORT(reason) const char *reason(void) { return error; }

// All instances begin with the same stack, so every worker first sets one of its own.
__asm__(".globaltype __stack_pointer, i32\n"
        ".globl use_stack\n"
        ".type use_stack,@function\n"
        "use_stack:\n"
        ".functype use_stack (i32) -> ()\n"
        "local.get 0\n"
        "global.set __stack_pointer\n"
        "end_function\n"
        ".export_name use_stack, use_stack\n");

#ifdef USE_RELAXED
#include <wasm_simd128.h>

/**
 * Checks that this engine's relaxed product multiplies signed by unsigned bytes exactly, as processors with VNNI do.
 * Other engines saturate pairs of products, or treat both as signed.
 */
EXPORT(has_exact_product) int has_exact_product(void) {
  // Volatile, so that the compiler does not compute with them.
  static volatile int largest = 255, sum = 1000;
  for (int input = -127; input <= 127; input += 127) {
    v128_t dots = wasm_i32x4_relaxed_dot_i8x16_i7x16_add(wasm_i8x16_splat((int8_t)input), wasm_u8x16_splat((uint8_t)largest), wasm_i32x4_splat(sum));
    if (!wasm_i32x4_all_true(wasm_i32x4_eq(dots, wasm_i32x4_splat(sum + 4 * 255 * input)))) return 0;
  }
  return 1;
}
#endif

/** Runs a worker's thread until the kernel is closed. */
EXPORT(help) void help(Kernel *kernel, int thread) { team_help(kernel_team(kernel), thread); }

EXPORT(close) void close_kernel(Kernel *kernel) { kernel_close(kernel); }
