// Products of the FFN. Its parts are the shared weights for all rows, and each expert for its rows; an expert without
// rows is not read.

#include "phases.h"

typedef struct {
  /** Whether all rows use the part, so that loras apply to it. */
  int isShared;
  const Tensor *gate, *up, *down;
  int rowFrom, rowTo;
  /** Inputs of the first products. */
  const Rows *inputs;
  /** Inputs of the last product: columns of gated rows from a first one on. */
  const Rows *gated;
  int column;
  /** Outputs of the last product, `[row][hiddenWidth]`. */
  float *out;
} Part;

static Part shared_part(const Kernel *kernel, const Feed *feed) {
  const Layer *layer = feed->layer;
  return (Part){1, layer->gate, layer->up, layer->down, 0, feed->numRows, &kernel->normed, &kernel->gated, 0, kernel->update};
}

static Part expert_part(const Feed *feed, int group) {
  const Expert *expert = &feed->layer->experts[feed->groups->experts[group]];
  const int32_t *starts = feed->groups->starts + group;
  return (Part){0, &expert->gate, &expert->up, &expert->down, starts[0], starts[1], feed->inputs, feed->gated, feed->column, feed->out};
}

/** Rows of a part, and vectors of its outputs, that one task computes. */
typedef struct {
  Part part;
  int rowFrom, rowTo, from, to;
} FeedTask;

/** Tasks of a phase over all parts of an FFN: those of the shared part come first, then those of experts. */
typedef struct {
  /** Number of vectors of outputs that a task computes, and in all, of the shared part and of an expert. */
  int vectors, sharedVectors, expertVectors;
  /** Number of tasks for the same rows. */
  int sharedColumns, expertColumns;
  int numShared, numTasks;
} Plan;

/** Plans the phase of gates, or the last one. */
static Plan plan_parts(const Kernel *kernel, const Feed *feed, int isLast) {
  const Layer *layer = feed->layer;
  const Expert *expert = layer->experts;
  Plan plan = {.vectors = 0};
  int sharedRows = feed->hasShared ? row_tasks(feed->numRows) : 0;
  int expertRows = expert ? atomic_load_explicit(&feed->groups->numTasks, memory_order_relaxed) : 0;
  if (feed->hasShared) plan.sharedVectors = (isLast ? layer->down : layer->up)->numPanels * 4;
  // Experts of a layer have the same sizes.
  if (expert) plan.expertVectors = (isLast ? &expert->down : &expert->up)->numPanels * 4;
  plan.vectors = vectors_of_task(kernel, plan.sharedVectors * sharedRows + plan.expertVectors * expertRows, isLast ? 1 : 2);
  plan.sharedColumns = (plan.sharedVectors + plan.vectors - 1) / plan.vectors;
  plan.expertColumns = (plan.expertVectors + plan.vectors - 1) / plan.vectors;
  plan.numShared = plan.sharedColumns * sharedRows;
  plan.numTasks = plan.numShared + plan.expertColumns * expertRows;
  return plan;
}

/** Finds the expert with a group of rows, by the number of groups before it. */
static int group_with(const Groups *groups, int rowTask) {
  int from = 0, to = groups->numExperts;
  while (to - from > 1) {
    int middle = (from + to) / 2;
    if (groups->tasks[middle] <= rowTask) from = middle;
    else to = middle;
  }
  return from;
}

static FeedTask feed_task(const Kernel *kernel, const Feed *feed, const Plan *plan, int task) {
  int isShared = task < plan->numShared, own = isShared ? task : task - plan->numShared;
  int numColumns = isShared ? plan->sharedColumns : plan->expertColumns, numVectors = isShared ? plan->sharedVectors : plan->expertVectors;
  int rowTask = own / numColumns, from = own % numColumns * plan->vectors, group = isShared ? 0 : group_with(feed->groups, rowTask);
  Part part = isShared ? shared_part(kernel, feed) : expert_part(feed, group);
  int rowFrom = part.rowFrom + (rowTask - (isShared ? 0 : feed->groups->tasks[group])) * TASK_ROWS;
  return (FeedTask){part, rowFrom, least(rowFrom + TASK_ROWS, part.rowTo), from, least(from + plan->vectors, numVectors)};
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

static void gate_task(Kernel *kernel, int thread, Activation activation, const FeedTask *task, const LoraRows *loraRows) {
  float *gates = kernel->gates + (size_t)thread * 2 * TASK_ROWS * GATE_COLUMNS, *values = gates + TASK_ROWS * GATE_COLUMNS;
  const Loops *loops = kernel->loops;
  const Part *part = &task->part;
  Rows gated = rows_at(part->gated, part->column);
  for (int from = task->from, to; from < task->to; from = to) {
    to = least(from + GATE_COLUMNS / 16, task->to);
    int columns = 16 * (to - from);
    const uint8_t *up = panel_at(part->up, from), *next = to < task->to ? panel_at(part->gate ? part->gate : part->up, to) : NULL;
    if (part->isShared) {
      if (part->gate) prefetch_raise(loraRows, 0, task->rowFrom, task->rowTo, from, to);
      prefetch_raise(loraRows, 1, task->rowFrom, task->rowTo, from, to);
    }
    if (part->gate) loops->product(part->gate, from, to, part->inputs, task->rowFrom, task->rowTo, gates, GATE_COLUMNS, up);
    loops->product(part->up, from, to, part->inputs, task->rowFrom, task->rowTo, values, GATE_COLUMNS, next);
    if (part->isShared) {
      if (part->gate) raise_rows(kernel, loraRows, 0, task->rowFrom, task->rowTo, from, to, gates, GATE_COLUMNS);
      raise_rows(kernel, loraRows, 1, task->rowFrom, task->rowTo, from, to, values, GATE_COLUMNS);
    }
    for (int row = task->rowFrom; row < task->rowTo; row++) {
      size_t at = (size_t)(row - task->rowFrom) * GATE_COLUMNS;
      loops->gate(part->gate ? gates + at : NULL, values + at, gated.floats + (size_t)row * gated.width + 16 * from, columns, activation);
      if (kernel->rounds) loops->round_row(&gated, row, 16 * from, 16 * to);
    }
  }
}

static void gate_rows(Kernel *kernel, Member *member, const Feed *feed, const LoraRows *loraRows) {
  Plan plan = plan_parts(kernel, feed, 0);
  EACH_TASK(member, task, plan.numTasks) {
    FeedTask own = feed_task(kernel, feed, &plan, task);
    gate_task(kernel, member->thread, (Activation)feed->layer->description.activation, &own, loraRows);
  }
}

static void contract_rows(Kernel *kernel, Member *member, const Feed *feed, const LoraRows *loraRows) {
  Plan plan = plan_parts(kernel, feed, 1);
  EACH_TASK(member, task, plan.numTasks) {
    FeedTask own = feed_task(kernel, feed, &plan, task);
    Rows gated = rows_at(own.part.gated, own.part.column);
    float *out = own.part.out + (size_t)own.rowFrom * kernel->hiddenWidth + 16 * own.from;
    if (own.part.isShared) prefetch_raise(loraRows, 0, own.rowFrom, own.rowTo, own.from, own.to);
    kernel->loops->product(own.part.down, own.from, own.to, &gated, own.rowFrom, own.rowTo, out, kernel->hiddenWidth, NULL);
    if (own.part.isShared) raise_rows(kernel, loraRows, 0, own.rowFrom, own.rowTo, own.from, own.to, out, kernel->hiddenWidth);
  }
}

void feed_parts(Kernel *kernel, Member *member, const Feed *feed) {
  const Tensor *down = feed->hasShared ? feed->layer->down : NULL;
  LoraRows loraRows = {feed->numRows, feed->loras, feed->firstProduct + LORA_GATE, 2, 0};
  if (down) loraRows = lower_rows(kernel, member, loraRows, &kernel->normed, kernel->model.hiddenSize);
  gate_rows(kernel, member, feed, &loraRows);
  team_next_phase(member);
  if (down) observe(kernel, member, &kernel->gated, 0, feed->numRows, down->numIn, feed->layer->gatedSquares);
  observe_experts(kernel, member, feed);
  loraRows = (LoraRows){feed->numRows, feed->loras, feed->firstProduct + LORA_DOWN, 1, 0};
  if (down) loraRows = lower_rows(kernel, member, loraRows, &kernel->gated, down->numIn);
  contract_rows(kernel, member, feed, &loraRows);
  team_next_phase(member);
}
