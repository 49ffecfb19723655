// One step: all threads run the same phases, and take their tasks one by one. Tasks are split by rows and by outputs, never by what
// is summed, so neither threads nor neighbours change a bit. Attention has rows by sequence; FFNs have them by expert.

#include "phases.h"

/** Adds to the stream what an FFN gave the row at a place of its groups. */
static void end_layer(Kernel *kernel, const Layer *layer, int streamRow, int place) {
  join_updates(kernel, layer, place);
  add_update(kernel, streamRow, place, layer->ffnOutputNorm, layer->description.residualScale);
}

static void run_layer(Kernel *kernel, int index, Member *member) {
  const Layer *layer = &kernel->layers[index], *before = index > 0 ? layer - 1 : NULL;
  int isLast = index == kernel->model.numLayers - 1;
  const Groups *groups = isLast ? &kernel->wanted : &kernel->all;
  int numRows = groups->numRows;
  EACH_TASK(member, place, kernel->step->numRows) {
    int row = kernel->all.rows[place];
    if (before) end_layer(kernel, before, row, place);
    else look_up(kernel, kernel->step->tokens[row], kernel->stream + (size_t)row * kernel->hiddenWidth);
    norm_row(kernel, row, row, layer->attentionNorm);
  }
  team_next_phase(member);
  observe(kernel, member, &kernel->normed, 0, kernel->step->numRows, kernel->model.hiddenSize, layer->attentionSquares);
  multiply(kernel, member, kernel->step->numRows, (const Tensor *const[]){layer->query, layer->key, layer->value}, 3, &kernel->normed,
           kernel->projected, kernel->projectedWidth);
  team_next_phase(member);
  if (numRows == 0) {
    place_rows(kernel, member, layer);
    return team_next_phase(member);
  }
  attend_rows(kernel, member, layer, numRows);
  team_next_phase(member);
  observe(kernel, member, &kernel->attended, 0, numRows, layer->attentionOutput->numIn, layer->attendedSquares);
  multiply(kernel, member, numRows, &layer->attentionOutput, 1, &kernel->attended, kernel->update, kernel->hiddenWidth);
  team_next_phase(member);
  EACH_TASK(member, place, numRows) {
    int row = groups->rows[place], streamRow = isLast ? kernel->active[row] : row;
    add_update(kernel, streamRow, row, layer->attentionOutputNorm, layer->description.residualScale);
    norm_row(kernel, streamRow, place, layer->ffnNorm);
  }
  team_next_phase(member);
  observe(kernel, member, &kernel->normed, 0, numRows, kernel->model.hiddenSize, layer->ffnSquares);
  gate_rows(kernel, member, layer, groups);
  team_next_phase(member);
  if (layer->down) observe(kernel, member, &kernel->gated, 0, numRows, layer->down->numIn, layer->gatedSquares);
  observe_experts(kernel, member, layer, groups);
  contract_rows(kernel, member, layer, groups);
  team_next_phase(member);
}

static void run_step(void *context, Member *member) {
  Kernel *kernel = context;
  const Step *step = kernel->step;
  for (int l = 0; l < kernel->model.numLayers; l++) run_layer(kernel, l, member);
  if (step->numWanted == 0) return;
  const Layer *last = &kernel->layers[kernel->model.numLayers - 1];
  EACH_TASK(member, place, kernel->numActive) end_layer(kernel, last, kernel->active[kernel->wanted.rows[place]], place);
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
  group_rows(kernel);
  team_run(&kernel->team, run_step, kernel);
  kernel->step = NULL;
  return NULL;
}
