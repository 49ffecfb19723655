// Products of the FFN. Its parts are the shared weights for all rows, and each expert for its rows; an expert without
// rows is not read.

#include "phases.h"

typedef struct {
  /** Whether all rows use the part, so that changes apply to it. */
  int isShared;
  const Tensor *gate, *up, *down;
  int rowFrom, rowTo;
  /** First column of the part in gated rows. */
  int column;
  /** Outputs of the last product, `[row][hiddenWidth]`. */
  float *out;
} Part;

static int num_parts(const Layer *layer, const Groups *groups) {
  return (layer->up ? 1 : 0) + (layer->experts ? groups->numExperts : 0);
}

static Part part_at(const Kernel *kernel, const Layer *layer, const Groups *groups, int index) {
  if (layer->up && index == 0) return (Part){1, layer->gate, layer->up, layer->down, 0, groups->numRows, 0, kernel->update};
  int group = index - (layer->up ? 1 : 0);
  const Expert *expert = &layer->experts[groups->experts[group]];
  float *out = layer->up ? kernel->routed : kernel->update;
  return (Part){0, &expert->gate, &expert->up, &expert->down, groups->starts[group], groups->starts[group + 1], layer->sharedWidth, out};
}

/** Rows of a part, and vectors of its outputs, that one task computes. */
typedef struct {
  Part part;
  int rowFrom, rowTo, from, to;
} Piece;

/** Tasks of a phase over all parts of an FFN. */
typedef struct {
  int isLast, vectors, numTasks;
} Plan;

/** Counts the vectors of a part's outputs, in the phase of gates or in the last one. */
static int num_vectors(const Part *part, int isLast) { return (isLast ? part->down : part->up)->numPanels * 4; }

static int num_tasks(const Part *part, const Plan *plan) {
  return (num_vectors(part, plan->isLast) + plan->vectors - 1) / plan->vectors * row_tasks(part->rowTo - part->rowFrom);
}

static Plan plan_parts(const Kernel *kernel, const Layer *layer, const Groups *groups, int isLast) {
  int numParts = num_parts(layer, groups), allVectors = 0;
  for (int i = 0; i < numParts; i++) {
    Part part = part_at(kernel, layer, groups, i);
    allVectors += num_vectors(&part, isLast) * row_tasks(part.rowTo - part.rowFrom);
  }
  Plan plan = {.isLast = isLast, .vectors = vectors_of_task(kernel, allVectors, isLast ? 1 : 2)};
  for (int i = 0; i < numParts; i++) {
    Part part = part_at(kernel, layer, groups, i);
    plan.numTasks += num_tasks(&part, &plan);
  }
  return plan;
}

static Piece piece_of(const Kernel *kernel, const Layer *layer, const Groups *groups, const Plan *plan, int task) {
  Part part = part_at(kernel, layer, groups, 0);
  for (int index = 0; task >= num_tasks(&part, plan);) {
    task -= num_tasks(&part, plan);
    part = part_at(kernel, layer, groups, ++index);
  }
  int numVectors = num_vectors(&part, plan->isLast), numColumns = (numVectors + plan->vectors - 1) / plan->vectors;
  int rowFrom = part.rowFrom + task / numColumns * TASK_ROWS, from = task % numColumns * plan->vectors;
  return (Piece){part, rowFrom, least(rowFrom + TASK_ROWS, part.rowTo), from, least(from + plan->vectors, numVectors)};
}

Rows rows_at(const Rows *rows, int column) {
  Rows view = *rows;
  view.floats += column;
  view.values += column;
  view.wide += column;
  view.scales += column / GROUP;
  view.sums += column / GROUP;
  view.offsets += column / GROUP;
  view.halfSums += column / GROUP;
  return view;
}

/** Returns the panel that begins with a vector. */
static const uint8_t *panel_at(const Tensor *tensor, int vector) { return tensor->weights + (size_t)(vector / 4) * tensor->panelBytes; }

static void gate_piece(Kernel *kernel, int thread, Activation activation, const Piece *piece, const Changed *changed) {
  float *gates = kernel->gates + (size_t)thread * 2 * TASK_ROWS * GATE_COLUMNS, *values = gates + TASK_ROWS * GATE_COLUMNS;
  const Loops *loops = kernel->loops;
  const Part *part = &piece->part;
  Rows gated = rows_at(&kernel->gated, part->column);
  for (int from = piece->from, to; from < piece->to; from = to) {
    to = least(from + GATE_COLUMNS / 16, piece->to);
    int columns = 16 * (to - from);
    const uint8_t *up = panel_at(part->up, from), *next = to < piece->to ? panel_at(part->gate ? part->gate : part->up, to) : NULL;
    if (part->isShared) {
      if (part->gate) prefetch_raise(changed, 0, piece->rowFrom, piece->rowTo, from, to);
      prefetch_raise(changed, 1, piece->rowFrom, piece->rowTo, from, to);
    }
    if (part->gate) loops->product(part->gate, from, to, &kernel->normed, piece->rowFrom, piece->rowTo, gates, GATE_COLUMNS, up);
    loops->product(part->up, from, to, &kernel->normed, piece->rowFrom, piece->rowTo, values, GATE_COLUMNS, next);
    if (part->isShared) {
      if (part->gate) raise_rows(kernel, changed, 0, piece->rowFrom, piece->rowTo, from, to, gates, GATE_COLUMNS);
      raise_rows(kernel, changed, 1, piece->rowFrom, piece->rowTo, from, to, values, GATE_COLUMNS);
    }
    for (int row = piece->rowFrom; row < piece->rowTo; row++) {
      size_t at = (size_t)(row - piece->rowFrom) * GATE_COLUMNS;
      loops->gate(part->gate ? gates + at : NULL, values + at, gated.floats + (size_t)row * gated.width + 16 * from, columns, activation);
      if (kernel->rounds) loops->round_row(&gated, row, 16 * from, 16 * to);
    }
  }
}

void gate_rows(Kernel *kernel, Member *member, const Layer *layer, const Groups *groups, const Changed *changed) {
  Plan plan = plan_parts(kernel, layer, groups, 0);
  EACH_TASK(member, task, plan.numTasks) {
    Piece piece = piece_of(kernel, layer, groups, &plan, task);
    gate_piece(kernel, member->thread, (Activation)layer->description.activation, &piece, changed);
  }
}

void contract_rows(Kernel *kernel, Member *member, const Layer *layer, const Groups *groups, const Changed *changed) {
  Plan plan = plan_parts(kernel, layer, groups, 1);
  EACH_TASK(member, task, plan.numTasks) {
    Piece piece = piece_of(kernel, layer, groups, &plan, task);
    Rows gated = rows_at(&kernel->gated, piece.part.column);
    float *out = piece.part.out + (size_t)piece.rowFrom * kernel->hiddenWidth + 16 * piece.from;
    if (piece.part.isShared) prefetch_raise(changed, 0, piece.rowFrom, piece.rowTo, piece.from, piece.to);
    kernel->loops->product(piece.part.down, piece.from, piece.to, &gated, piece.rowFrom, piece.rowTo, out, kernel->hiddenWidth, NULL);
    if (piece.part.isShared) raise_rows(kernel, changed, 0, piece.rowFrom, piece.rowTo, piece.from, piece.to, out, kernel->hiddenWidth);
  }
}
