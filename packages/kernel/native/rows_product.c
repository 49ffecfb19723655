#include "rows_product.h"
#include "memory.h"
#include "phases.h"
#include "platform.h"
#include "reader.h"

/** Numbers of rows and of vectors of 16 outputs of a task: unpacked weights serve many rows, which stay in the cache. */
enum { ROWS_OF_TASK = 2 * TASK_ROWS, VECTORS_OF_TASK = 16 };

/** A product that runs. Rows have whole groups, and outputs whole vectors. */
typedef struct {
  const RowsProduct *product;
  Tensor tensor;
  Rows rows;
  float *out;
  int32_t outWidth;
} Running;

static void run_product(void *context, Member *member) {
  const Running *running = context;
  const RowsProduct *product = running->product;
  const Tensor *tensor = &running->tensor;
  const int32_t numRows = product->numRows, numIn = tensor->numIn, numOut = tensor->numOut, width = running->rows.width;
  EACH_TASK(member, row, numRows) {
    if (width != numIn) memcpy(running->rows.floats + (size_t)row * (size_t)width, product->rows + (size_t)row * (size_t)numIn, (size_t)numIn * 4);
    if (!reads_floats(tensor->format)) product->loops->round_row(&running->rows, row, 0, width);
  }
  team_next_phase(member);
  const int numVectors = running->outWidth / 16, numColumns = (numVectors + VECTORS_OF_TASK - 1) / VECTORS_OF_TASK;
  EACH_TASK(member, task, numColumns * ((numRows + ROWS_OF_TASK - 1) / ROWS_OF_TASK)) {
    int rowFrom = task / numColumns * ROWS_OF_TASK, from = task % numColumns * VECTORS_OF_TASK;
    float *at = running->out + (size_t)rowFrom * (size_t)running->outWidth + 16 * from;
    product->loops->product(tensor, from, least(from + VECTORS_OF_TASK, numVectors), &running->rows, rowFrom, least(rowFrom + ROWS_OF_TASK, numRows), at,
                            running->outWidth, NULL);
  }
  if (running->outWidth == numOut) return;
  team_next_phase(member);
  EACH_TASK(member, row, numRows)
    memcpy(product->out + (size_t)row * (size_t)numOut, running->out + (size_t)row * (size_t)running->outWidth, (size_t)numOut * 4);
}

/** Returns the next memory of a block, at a multiple of 64 bytes, or only counts it when there is no block. */
static void *place(uint8_t *block, size_t *end, size_t bytes) {
  void *placed = block ? block + *end : NULL;
  *end += (bytes + 63) / 64 * 64;
  return placed;
}

/** Places what a product needs beside its arguments. @returns the size of the block */
static size_t place_all(Running *running, uint8_t *block) {
  const RowsProduct *product = running->product;
  Rows *rows = &running->rows;
  const size_t numRows = (size_t)product->numRows, count = numRows * (size_t)rows->width, groups = count / GROUP;
  size_t end = 0;
  // Whole groups and whole vectors are read and written where they are.
  rows->floats = rows->width == running->tensor.numIn ? (float *)(uintptr_t)product->rows : place(block, &end, count * 4);
  running->out = running->outWidth == running->tensor.numOut ? product->out : place(block, &end, numRows * (size_t)running->outWidth * 4);
  if (reads_floats(running->tensor.format)) return end;
  rows->values = place(block, &end, count);
  rows->scales = place(block, &end, groups * 4);
  rows->sums = place(block, &end, groups * 4);
  rows->offsets = place(block, &end, groups * 4);
  rows->halfSums = place(block, &end, groups * 4);
  // Only WebAssembly, which does not call this, reads 16 bits.
  rows->wide = (int16_t *)(void *)rows->values;
  return end;
}

const char *multiply_rows(const RowsProduct *product) {
  Running running = {.product = product};
  Reader reader = {.file = product->file, .bytes = product->bytes};
  if (!read_tensor(&reader, &product->tensor, &running.tensor)) return reader.error;
  if (running.tensor.format < FORMAT_FLOAT) return "a tensor that is multiplied";
  if (product->numRows < 1 || product->numRows > 1 << 20) return "a number of rows";
  running.rows.width = whole(running.tensor.numIn, GROUP);
  running.outWidth = whole(running.tensor.numOut, 16);
  uint8_t *block = platform_allocate(place_all(&running, NULL) + 1);
  if (!block) return "memory";
  place_all(&running, block);
  team_run(product->team, run_product, &running);
  platform_free(block);
  return NULL;
}
