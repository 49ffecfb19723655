// One step: all threads run the same phases, and take their tasks one by one. Tasks are split by rows and by outputs, never by what
// is summed, so neither threads nor neighbours change a bit.

#include "phases.h"

/** Rows of a layer behind its keys and values: in the last one only those whose logits are wanted. */
static int rows_of(const Kernel *kernel, int isLast) { return isLast ? kernel->numActive : kernel->step->numRows; }

static int stream_row(const Kernel *kernel, int isLast, int row) { return isLast ? kernel->active[row] : row; }

static void run_layer(Kernel *kernel, int index, Member *member) {
  const Layer *layer = &kernel->layers[index], *before = index > 0 ? layer - 1 : NULL;
  int isLast = index == kernel->model.numLayers - 1, numRows = rows_of(kernel, isLast);
  EACH_TASK(member, row, kernel->step->numRows) {
    if (before) add_update(kernel, row, row, before->ffnOutputNorm, before->description.residualScale);
    else look_up(kernel, kernel->step->tokens[row], kernel->stream + (size_t)row * kernel->hiddenWidth);
    norm_row(kernel, row, row, layer->attentionNorm);
  }
  team_next_phase(member);
  observe(kernel, member, &kernel->normed, kernel->step->numRows, kernel->model.hiddenSize, layer->attentionSquares);
  multiply(kernel, member, kernel->step->numRows, (const Tensor *const[]){layer->query, layer->key, layer->value}, 3, &kernel->normed,
           kernel->projected, kernel->projectedWidth);
  team_next_phase(member);
  if (numRows == 0) {
    place_rows(kernel, member, layer);
    return team_next_phase(member);
  }
  attend_rows(kernel, member, layer, numRows);
  team_next_phase(member);
  observe(kernel, member, &kernel->attended, numRows, layer->attentionOutput->numIn, layer->attendedSquares);
  multiply(kernel, member, numRows, &layer->attentionOutput, 1, &kernel->attended, kernel->update, kernel->hiddenWidth);
  team_next_phase(member);
  EACH_TASK(member, row, numRows) {
    int streamRow = stream_row(kernel, isLast, row);
    add_update(kernel, streamRow, row, layer->attentionOutputNorm, layer->description.residualScale);
    norm_row(kernel, streamRow, row, layer->ffnNorm);
  }
  team_next_phase(member);
  observe(kernel, member, &kernel->normed, numRows, kernel->model.hiddenSize, layer->ffnSquares);
  gate_rows(kernel, member, numRows, layer);
  team_next_phase(member);
  observe(kernel, member, &kernel->gated, numRows, layer->down->numIn, layer->gatedSquares);
  multiply(kernel, member, numRows, &layer->down, 1, &kernel->gated, kernel->update, kernel->hiddenWidth);
  team_next_phase(member);
}

static void run_step(void *context, Member *member) {
  Kernel *kernel = context;
  const Step *step = kernel->step;
  for (int l = 0; l < kernel->model.numLayers; l++) run_layer(kernel, l, member);
  if (step->numWanted == 0) return;
  const Layer *last = &kernel->layers[kernel->model.numLayers - 1];
  EACH_TASK(member, row, kernel->numActive)
    add_update(kernel, kernel->active[row], row, last->ffnOutputNorm, last->description.residualScale);
  team_next_phase(member);
  for (int from = 0; from < step->numWanted; from += LOGIT_ROWS) {
    int to = least(from + LOGIT_ROWS, step->numWanted);
    EACH_TASK(member, row, to - from) norm_row(kernel, step->wanted[from + row], row, kernel->finalNorm);
    team_next_phase(member);
    conclude_rows(kernel, member, from, to);
  }
}

const char *kernel_step(Kernel *kernel, const Step *step) {
  const char *error = check_step(kernel, step);
  if (error) return error;
  kernel->step = step;
  kernel->numActive = 0;
  kernel->firstKept = (step->numWanted - 1) / LOGIT_ROWS * LOGIT_ROWS;
  kernel->endKept = step->numWanted;
  for (int i = 0; i < step->numWanted; i++)
    if (i == 0 || step->wanted[i] != step->wanted[i - 1]) kernel->active[kernel->numActive++] = step->wanted[i];
  team_run(&kernel->team, run_step, kernel);
  kernel->step = NULL;
  return NULL;
}
