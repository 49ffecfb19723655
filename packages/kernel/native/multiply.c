// Products as phases, whose tasks are some outputs of some rows.

#include "phases.h"

/** Tasks of a product: `vectors` of 16 outputs each, for up to TASK_ROWS rows. */
typedef struct {
  int vectors, numColumns, numTasks;
} Split;

int vectors_of_task(const Kernel *kernel, int allVectors, int unit) {
  int wanted = 6 * kernel->team.numThreads, vectors = allVectors / wanted / 4 * 4;
  if (vectors < 4) vectors = allVectors * 2 < wanted ? unit : 4;
  return vectors > 16 ? 16 : vectors;
}

static Split split_product(int numVectors, int numRows, int vectors) {
  int numColumns = (numVectors + vectors - 1) / vectors;
  return (Split){vectors, numColumns, numColumns * row_tasks(numRows)};
}

void multiply(Kernel *kernel, Member *member, const LoraRows *loraRows, const Tensor *const tensors[], int numTensors, const Rows *rows, float *out,
              int outStride) {
  int numVectors = 0, numRows = loraRows->numRows;
  for (int i = 0; i < numTensors; i++) numVectors += tensors[i]->numPanels * 4;
  Split split = split_product(numVectors, numRows, vectors_of_task(kernel, numVectors * row_tasks(numRows), 1));
  EACH_TASK(member, task, split.numTasks) {
    int rowFrom = task / split.numColumns * TASK_ROWS, rowTo = least(rowFrom + TASK_ROWS, numRows);
    int from = task % split.numColumns * split.vectors, to = least(from + split.vectors, numVectors);
    for (int i = 0, first = 0; i < numTensors; first += tensors[i++]->numPanels * 4) {
      int own = from > first ? from : first, end = least(to, first + tensors[i]->numPanels * 4);
      if (own >= end) continue;
      float *at = out + (size_t)rowFrom * outStride + 16 * own;
      prefetch_raise(loraRows, i, rowFrom, rowTo, own - first, end - first);
      kernel->loops->product(tensors[i], own - first, end - first, rows, rowFrom, rowTo, at, outStride, NULL);
      raise_rows(kernel, loraRows, i, rowFrom, rowTo, own - first, end - first, at, outStride);
    }
  }
}
