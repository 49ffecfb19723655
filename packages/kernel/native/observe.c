// Statistics of the inputs of products, which determine how weights are packed.

#include "phases.h"

enum { INPUTS_OF_TASK = 64 };

void place_inputs(Kernel *kernel) {
  size_t hidden = (size_t)kernel->model.hiddenSize, numExperts = (size_t)kernel->model.numExperts;
  for (int l = 0; l < kernel->model.numLayers; l++) {
    Layer *layer = &kernel->layers[l];
    layer->attentionSquares = kernel->numInputs;
    layer->attendedSquares = layer->attentionSquares + hidden;
    layer->ffnSquares = layer->attendedSquares + (size_t)layer->attentionOutput->numIn;
    layer->gatedSquares = layer->ffnSquares + hidden;
    layer->expertSquares = layer->gatedSquares + (layer->down ? (size_t)layer->down->numIn : 0);
    size_t ofExpert = layer->experts ? hidden + (size_t)layer->experts->down.numIn : 0;
    kernel->numInputs = layer->expertSquares + numExperts * ofExpert;
  }
}

void observe(Kernel *kernel, Member *member, const Rows *rows, int rowFrom, int rowTo, int numIn, size_t place) {
  if (!kernel->step->inputSquares) return;
  float *squares = kernel->step->inputSquares + place;
  EACH_TASK(member, task, (numIn + INPUTS_OF_TASK - 1) / INPUTS_OF_TASK) {
    for (int i = task * INPUTS_OF_TASK; i < least(numIn, (task + 1) * INPUTS_OF_TASK); i++) {
      double sum = 0;
      for (int row = rowFrom; row < rowTo; row++) {
        double input = (double)rows->floats[(size_t)row * rows->width + i];
        sum += input * input;
      }
      squares[i] = (float)sum;
    }
  }
  team_next_phase(member);
}

void observe_experts(Kernel *kernel, Member *member, const Layer *layer, const Groups *groups) {
  if (!layer->experts || !kernel->step->inputSquares) return;
  int hidden = kernel->model.hiddenSize, size = layer->experts->down.numIn;
  Rows gated = rows_at(&kernel->gated, layer->sharedWidth);
  for (int i = 0; i < groups->numExperts; i++) {
    int from = groups->starts[i], to = groups->starts[i + 1];
    size_t place = layer->expertSquares + (size_t)groups->experts[i] * (size_t)(hidden + size);
    observe(kernel, member, &kernel->normed, from, to, hidden, place);
    observe(kernel, member, &gated, from, to, size, place + (size_t)hidden);
  }
}
