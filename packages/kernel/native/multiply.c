// Products as phases: tasks are some outputs of some rows.

#include "phases.h"

/** Tasks of a product: `vectors` of 16 outputs each, for up to TASK_ROWS rows. */
typedef struct {
  int vectors, numColumns, numTasks;
} Split;

/** Splits so that every thread has several tasks, of at least `unit` vectors. */
static Split split_product(const Kernel *kernel, int numVectors, int numRows, int unit) {
  int rowTasks = (numRows + TASK_ROWS - 1) / TASK_ROWS, wanted = 6 * kernel->team.numThreads;
  int vectors = numVectors * rowTasks / wanted / 4 * 4;
  if (vectors < 4) vectors = numVectors * rowTasks * 2 < wanted ? unit : 4;
  if (vectors > 16) vectors = 16;
  int numColumns = (numVectors + vectors - 1) / vectors;
  return (Split){vectors, numColumns, numColumns * rowTasks};
}

void multiply(Kernel *kernel, Member *member, int numRows, const Tensor *const tensors[], int numTensors, const Rows *rows, float *out,
              int outStride) {
  int numVectors = 0;
  for (int i = 0; i < numTensors; i++) numVectors += tensors[i]->numPanels * 4;
  Split split = split_product(kernel, numVectors, numRows, 1);
  EACH_TASK(member, task, split.numTasks) {
    int rowFrom = task / split.numColumns * TASK_ROWS, rowTo = least(rowFrom + TASK_ROWS, numRows);
    int from = task % split.numColumns * split.vectors, to = least(from + split.vectors, numVectors);
    for (int i = 0, first = 0; i < numTensors; first += tensors[i++]->numPanels * 4) {
      int own = from > first ? from : first, end = least(to, first + tensors[i]->numPanels * 4);
      if (own < end)
        kernel->loops->product(tensors[i], own - first, end - first, rows, rowFrom, rowTo, out + (size_t)rowFrom * outStride + 16 * own, outStride);
    }
  }
}

void gate_rows(Kernel *kernel, Member *member, int numRows, const Layer *layer) {
  int numVectors = layer->up->numPanels * 4;
  float *gates = kernel->gates + (size_t)member->thread * 2 * TASK_ROWS * GATE_COLUMNS, *values = gates + TASK_ROWS * GATE_COLUMNS;
  const Loops *loops = kernel->loops;
  Rows *gated = &kernel->gated;
  Split split = split_product(kernel, numVectors, numRows, 2);
  EACH_TASK(member, task, split.numTasks) {
    int rowFrom = task / split.numColumns * TASK_ROWS, rowTo = least(rowFrom + TASK_ROWS, numRows);
    int end = least((task % split.numColumns + 1) * split.vectors, numVectors);
    for (int from = task % split.numColumns * split.vectors, to; from < end; from = to) {
      to = least(from + GATE_COLUMNS / 16, end);
      int columns = 16 * (to - from);
      if (layer->gate) loops->product(layer->gate, from, to, &kernel->normed, rowFrom, rowTo, gates, GATE_COLUMNS);
      loops->product(layer->up, from, to, &kernel->normed, rowFrom, rowTo, values, GATE_COLUMNS);
      for (int row = rowFrom; row < rowTo; row++) {
        size_t at = (size_t)(row - rowFrom) * GATE_COLUMNS;
        loops->gate(layer->gate ? gates + at : NULL, values + at, gated->floats + (size_t)row * gated->width + 16 * from, columns,
                    (Activation)layer->description.activation);
        if (kernel->rounds) loops->round_row(gated, row, 16 * from, 16 * to);
      }
    }
  }
}
