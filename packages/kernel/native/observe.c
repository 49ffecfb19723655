// Insight into steps: statistics of the inputs of products, and rows between layers, which a caller may replace.

#include "memory.h"
#include "phases.h"

enum { INPUTS_OF_TASK = 64 };

void place_inputs(Kernel *kernel) {
  size_t hidden = (size_t)kernel->model.hiddenSize;
  for (int l = 0; l < kernel->model.numLayers; l++) {
    Layer *layer = &kernel->layers[l];
    layer->attentionSquares = kernel->numInputs;
    layer->attendedSquares = layer->attentionSquares + (size_t)layer->mixedSize;
    layer->ffnSquares = layer->attendedSquares + (size_t)layer->attentionOutput->numIn;
    layer->gatedSquares = layer->ffnSquares + hidden;
    layer->expertSquares = layer->gatedSquares + (layer->down ? (size_t)layer->down->numIn : 0);
    size_t ofExpert = layer->experts ? hidden + (size_t)layer->experts->down.numIn : 0;
    kernel->numInputs = layer->expertSquares + (size_t)layer->numExperts * ofExpert;
  }
}

/** Sums the squares of inputs `[from, to)` over rows `[rowFrom, rowTo)`. */
static void sum_squares(const Rows *rows, int rowFrom, int rowTo, int from, int to, float *squares) {
  for (int i = from; i < to; i++) {
    double sum = 0;
    for (int row = rowFrom; row < rowTo; row++) {
      double input = (double)rows->floats[(size_t)row * rows->width + i];
      sum += input * input;
    }
    squares[i] += (float)sum;
  }
}

void observe(Kernel *kernel, Member *member, const Rows *rows, int rowFrom, int rowTo, int numIn, size_t place) {
  if (!kernel->step->inputSquares) return;
  float *squares = kernel->step->inputSquares + place;
  EACH_TASK(member, task, (numIn + INPUTS_OF_TASK - 1) / INPUTS_OF_TASK) {
    int from = task * INPUTS_OF_TASK, to = least(numIn, from + INPUTS_OF_TASK);
    memset(squares + from, 0, (size_t)(to - from) * 4);
    sum_squares(rows, rowFrom, rowTo, from, to, squares);
  }
  team_next_phase(member);
}

void observe_experts(Kernel *kernel, Member *member, const Feed *feed) {
  const Layer *layer = feed->layer;
  if (!layer->experts || !kernel->step->inputSquares) return;
  int hidden = kernel->model.hiddenSize, size = layer->experts->down.numIn;
  // One task for each expert, also without rows: the experts with rows are known only within a phase.
  EACH_TASK(member, expert, layer->numExperts) {
    const Groups *groups = feed->groups;
    float *squares = kernel->step->inputSquares + layer->expertSquares + (size_t)expert * (size_t)(hidden + size);
    if (!feed->isLater) memset(squares, 0, (size_t)(hidden + size) * 4);
    Rows gated = rows_at(feed->gated, feed->column);
    for (int i = 0; i < groups->numExperts; i++) {
      if (groups->experts[i] != expert) continue;
      sum_squares(feed->inputs, groups->starts[i], groups->starts[i + 1], 0, hidden, squares);
      sum_squares(&gated, groups->starts[i], groups->starts[i + 1], 0, size, squares + hidden);
    }
  }
  team_next_phase(member);
}

const char *kernel_write_stream(Kernel *kernel, const float *rows, size_t length) {
  size_t hidden = (size_t)kernel->model.hiddenSize, ahead = kernel->tokenNorm.scales ? hidden : 0;
  if (!kernel->step || kernel->toLayer > 0 || kernel->isRouted) return "a step that has just begun";
  size_t numRows = (size_t)kernel->step->numRows, numFused = kernel->fusion ? (size_t)kernel->fusion->numIn : 0;
  int isFused = !kernel->stateNorm.scales && numFused > 0 && length == numRows * (ahead + numFused);
  if (!isFused && length != numRows * (ahead + hidden)) return "rows of the stream";
  size_t width = isFused ? (size_t)kernel->fused.width : (size_t)kernel->hiddenWidth, size = isFused ? numFused : hidden;
  float *into = isFused ? kernel->fused.floats : kernel->stream;
  for (size_t row = 0; row < numRows; row++) {
    const float *from = rows + row * (ahead + size);
    if (ahead > 0) memcpy(kernel->tokenRows + row * hidden, from, hidden * 4);
    memcpy(into + row * width, from + ahead, size * 4);
    memset(into + row * width + size, 0, (width - size) * 4);
  }
  kernel->hasStream = 1;
  kernel->hasFused = isFused || kernel->stateNorm.scales != NULL;
  return NULL;
}

const char *kernel_read_states(const Kernel *kernel, States states, float *rows, size_t length) {
  size_t numRows = (size_t)kernel->begun.numRows, hidden = (size_t)kernel->model.hiddenSize, stride = (size_t)kernel->hiddenWidth, width = hidden;
  if (kernel->toLayer == 0 || kernel->isRouted) return "layers that have run";
  const Layer *layer = &kernel->layers[kernel->toLayer - 1];
  if (states != STATES_STREAM && (!layer->down || layer->experts)) return "a layer without experts";
  if (states == STATES_GATED) width = (size_t)layer->down->numIn, stride = (size_t)kernel->gated.width;
  if (length != numRows * width) return "room for the rows";
  const float *from = states == STATES_STREAM ? kernel->stream : states == STATES_UPDATE ? kernel->update : kernel->gated.floats;
  int isLast = kernel->toLayer == kernel->model.numLayers;
  const Groups *groups = isLast ? &kernel->wanted : &kernel->all;
  for (int32_t place = 0; place < groups->numRows; place++) {
    size_t row = (size_t)(isLast ? kernel->active[groups->rows[place]] : groups->rows[place]);
    memcpy(rows + row * width, from + (states == STATES_STREAM ? row : (size_t)place) * stride, width * 4);
  }
  return NULL;
}

const char *kernel_read_taps(const Kernel *kernel, float *rows, size_t length) {
  const int32_t ran = kernel->toLayer + (kernel->toLayer == kernel->model.numLayers && !kernel->step);
  if (!kernel->taps || ran < kernel->lastTap || kernel->toLayer == 0 || kernel->isRouted) return "layers that have run";
  if (length != (size_t)kernel->begun.numRows * (size_t)kernel->numTaps * (size_t)kernel->model.hiddenSize) return "room for the rows";
  memcpy(rows, kernel->taps, length * 4);
  return NULL;
}
