// Statistics of what products take in: weights are packed by them.

#include "phases.h"

enum { INPUTS_OF_TASK = 64 };

void place_inputs(Kernel *kernel) {
  size_t hidden = (size_t)kernel->model.hiddenSize;
  for (int l = 0; l < kernel->model.numLayers; l++) {
    Layer *layer = &kernel->layers[l];
    layer->attentionSquares = kernel->numInputs;
    layer->attendedSquares = layer->attentionSquares + hidden;
    layer->ffnSquares = layer->attendedSquares + (size_t)layer->attentionOutput->numIn;
    layer->gatedSquares = layer->ffnSquares + hidden;
    kernel->numInputs = layer->gatedSquares + (size_t)layer->down->numIn;
  }
}

void observe(Kernel *kernel, Member *member, const Rows *rows, int numRows, int numIn, size_t place) {
  if (!kernel->step->inputSquares) return;
  float *squares = kernel->step->inputSquares + place;
  EACH_TASK(member, task, (numIn + INPUTS_OF_TASK - 1) / INPUTS_OF_TASK) {
    for (int i = task * INPUTS_OF_TASK; i < least(numIn, (task + 1) * INPUTS_OF_TASK); i++) {
      double sum = 0;
      for (int row = 0; row < numRows; row++) {
        double input = (double)rows->floats[(size_t)row * rows->width + i];
        sum += input * input;
      }
      squares[i] = (float)sum;
    }
  }
  team_next_phase(member);
}
