// Latent attention (DeepSeek V2): all heads read one key, a rotated part and a latent row, which is their value too. Products
// by head multiply queries into the latent space, and outputs out of it.

#include "memory.h"
#include "phases.h"

/** Products of successive heads: those of a head read `inputColumns` columns of the rows, and write with their own stride. */
typedef struct {
  const Tensor *tensors;
  int numHeads, numRows;
  const Rows *inputs;
  int inputColumns;
  float *out;
  int outStride, headStride;
} HeadProducts;

/** Runs a phase of products by head, whose outputs are whole vectors. */
static void multiply_heads(Kernel *kernel, Member *member, HeadProducts products) {
  int numVectors = products.tensors->numOut / 16, numParts = row_tasks(products.numRows);
  int vectors = vectors_of_task(kernel, numVectors * products.numHeads * numParts, 1), numColumns = (numVectors + vectors - 1) / vectors;
  EACH_TASK(member, task, products.numHeads * numParts * numColumns) {
    int head = task / (numParts * numColumns), rowFrom = task / numColumns % numParts * TASK_ROWS, from = task % numColumns * vectors;
    Rows inputs = rows_at(products.inputs, head * products.inputColumns);
    float *out = products.out + (size_t)rowFrom * (size_t)products.outStride + head * products.headStride + 16 * from;
    kernel->loops->product(&products.tensors[head], from, least(from + vectors, numVectors), &inputs, rowFrom, least(rowFrom + TASK_ROWS, products.numRows),
                           out, products.outStride, NULL);
  }
}

/** Rounds a row of products' inputs, behind which zeros are written up to a whole panel. */
static void finish_row(Kernel *kernel, int row, int32_t size) {
  memset(kernel->byHead.floats + (size_t)row * (size_t)kernel->byHead.width + size, 0, (size_t)(whole(size, PANEL) - size) * 4);
  if (kernel->rounds) kernel->loops->round_row(&kernel->byHead, row, 0, whole(size, GROUP));
}

/** Copies the part of a head that rotates, whose pairs lie side by side, and rotates it. */
static void rotate_pairs(const Kernel *kernel, const Layer *layer, int32_t set, int32_t position, const float *pairs, float *out) {
  int half = layer->description.rotarySize / 2;
  for (int i = 0; i < half; i++) out[i] = pairs[2 * i], out[i + half] = pairs[2 * i + 1];
  rotate(kernel, set, position, out);
}

/** Computes queries of a low rank: their rows are normed, then multiplied. */
static void raise_queries(Kernel *kernel, Member *member, const Layer *layer) {
  const int32_t rank = layer->queryLow->numOut, numRows = kernel->step->numRows;
  EACH_ROW(member, row, numRows) {
    float *low = kernel->byHead.floats + (size_t)row * (size_t)kernel->byHead.width;
    memcpy(low, kernel->projected + (size_t)row * (size_t)kernel->projectedWidth, (size_t)rank * 4);
    memset(low + rank, 0, (size_t)(whole(rank, PANEL) - rank) * 4);
    kernel->loops->norm(low, layer->queryLowNorm, kernel->model.normEpsilon, rank, whole(rank, PANEL), low);
    finish_row(kernel, row, rank);
  }
  team_next_phase(member);
  multiply(kernel, member, &(LoraRows){.numRows = numRows}, &layer->query, 1, &kernel->byHead, kernel->projected + layer->queryColumn, kernel->projectedWidth);
  team_next_phase(member);
}

/** Stores a row's key, whose latent part is normed, and prepares its queries and the inputs of their products by head. */
static void place_latent_row(Kernel *kernel, const Layer *layer, int row, const int32_t *sequence, int32_t position) {
  const LayerDescription *d = &layer->description;
  const int32_t plain = layer->plainSize, columns = whole(plain, GROUP), rotated = d->rotarySize, first = layer->queryLow ? layer->queryLow->numPanels : layer->query->numPanels;
  const float *projected = kernel->projected + (size_t)row * (size_t)kernel->projectedWidth, *query = projected + layer->queryColumn;
  float *inputs = kernel->byHead.floats + (size_t)row * (size_t)kernel->byHead.width, *queries = kernel->queries + (size_t)row * (size_t)(d->numHeads * layer->paddedHead);
  for (int h = 0; h < d->numHeads; h++, query += plain + rotated, queries += layer->paddedHead, inputs += columns) {
    memcpy(inputs, query, (size_t)plain * 4);
    memset(inputs + plain, 0, (size_t)(columns - plain) * 4);
    rotate_pairs(kernel, layer, d->queryRotary, position, query + plain, queries);
  }
  finish_row(kernel, row, d->numHeads * columns);
  const float *latent = projected + first * PANEL;
  float key[4096 + 16];
  rotate_pairs(kernel, layer, d->rotary, position, latent + layer->latentSize, key);
  kernel->loops->norm(latent, layer->keyNorm, kernel->model.normEpsilon, layer->latentSize, layer->latentSize, key + rotated);
  kernel->loops->store_token(head_pages(kernel, layer, 0), kernel->step->pageTable + sequence[2], position, key, key);
}

void place_latent(Kernel *kernel, Member *member, const Layer *layer) {
  const LayerDescription *d = &layer->description;
  Cursor at = {kernel->step->sequences, 0};
  if (layer->queryLow) raise_queries(kernel, member, layer);
  EACH_ROW(member, row, kernel->step->numRows) {
    move_to(&at, row);
    place_latent_row(kernel, layer, row, at.sequence, at.sequence[1] + row - at.firstRow);
  }
  team_next_phase(member);
  multiply_heads(kernel, member,
                 (HeadProducts){
                     .tensors = layer->heads,
                     .numHeads = d->numHeads,
                     .numRows = kernel->step->numRows,
                     .inputs = &kernel->byHead,
                     .inputColumns = whole(layer->plainSize, GROUP),
                     .out = kernel->queries + d->rotarySize,
                     .outStride = d->numHeads * layer->paddedHead,
                     .headStride = layer->paddedHead,
                 });
}

void leave_latent(Kernel *kernel, Member *member, const Layer *layer, int numRows) {
  const int32_t numHeads = layer->description.numHeads;
  team_next_phase(member);
  multiply_heads(kernel, member,
                 (HeadProducts){
                     .tensors = layer->heads + numHeads,
                     .numHeads = numHeads,
                     .numRows = numRows,
                     .inputs = &kernel->attended,
                     .inputColumns = layer->outputColumns,
                     .out = kernel->byHead.floats,
                     .outStride = kernel->byHead.width,
                     .headStride = layer->heads[numHeads].numOut,
                 });
  team_next_phase(member);
  EACH_ROW(member, row, numRows) finish_row(kernel, row, layer->attentionOutput->numIn);
}
