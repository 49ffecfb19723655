// One step. All threads run the same phases, and take their tasks one by one. Tasks are split by rows and by outputs,
// never within a sum, so neither threads nor other rows change a bit. Attention has rows by sequence, FFNs by expert.

#include "memory.h"
#include "phases.h"

/** Adds the output of an FFN for the row at a place of its groups to the stream. */
static void end_ffn(Kernel *kernel, const Layer *layer, int streamRow, int place) {
  join_updates(kernel, layer, place);
  add_update(kernel, streamRow, place, layer->ffnOutputNorm, layer->description.residualScale);
}

/** Adds the last output of a layer for the row at a place of its groups to the stream. */
static void end_layer(Kernel *kernel, const Layer *layer, int streamRow, int place) {
  if (layer->inputGate) add_update(kernel, streamRow, place, layer->inputOutputNorm, layer->description.residualScale);
  else end_ffn(kernel, layer, streamRow, place);
  float *stream = kernel->stream + (size_t)streamRow * (size_t)kernel->hiddenWidth;
  for (int32_t i = 0; layer->streamScale && i < kernel->hiddenWidth; i++) stream[i] *= layer->streamScale[i];
}

/** Returns the rows of a layer's FFN by expert; in the last layer those with wanted logits. */
static const Groups *rows_fed(const Kernel *kernel, int index) { return index == kernel->model.numLayers - 1 ? &kernel->wanted : &kernel->all; }

/** Begins the stream of a row of the step. @param at - the row's sequence; rows rise where positions are looked up */
static void begin_row(Kernel *kernel, Cursor *at, int row) {
  // Models with positions have one expert, so that rows rise.
  if (kernel->positions) move_to(at, row);
  look_up(kernel, kernel->step->tokens[row], at->sequence[1] + row - at->firstRow, kernel->stream + (size_t)row * kernel->hiddenWidth);
}

/** Computes the stream from the rows that a fusion takes, which may be made from an embedding and a row each. */
static void fuse_rows(Kernel *kernel, Member *member) {
  const int32_t numRows = kernel->step->numRows, end = kernel->fused.width;
  EACH_ROW(member, row, numRows) {
    if (kernel->stateNorm.scales) norm_with_token(kernel, &kernel->fused, row, kernel->stateNorm);
    else if (kernel->rounds) kernel->loops->round_row(&kernel->fused, row, 0, end);
  }
  team_next_phase(member);
  multiply(kernel, member, &(LoraRows){.numRows = numRows}, &kernel->fusion, 1, &kernel->fused, kernel->stream, kernel->hiddenWidth);
  team_next_phase(member);
}

/** Computes the inputs of all layers, of all rows. */
static void project_inputs(Kernel *kernel, Member *member) {
  const int32_t numRows = kernel->step->numRows;
  Cursor at = {kernel->step->sequences, 0};
  EACH_ROW(member, row, numRows) {
    if (!kernel->hasStream) begin_row(kernel, &at, row);
    norm_row(kernel, row, row, (Norm){0}, 0);
  }
  team_next_phase(member);
  multiply(kernel, member, &(LoraRows){.numRows = numRows}, &kernel->layerProjection, 1, &kernel->normed, kernel->layerInputs, kernel->layerInputsWidth);
  team_next_phase(member);
  EACH_ROW(member, row, numRows) look_up_inputs(kernel, kernel->step->tokens[row], kernel->layerInputs + (size_t)row * (size_t)kernel->layerInputsWidth);
  team_next_phase(member);
}

/** Runs the products behind an FFN that read the layer's inputs. */
static void feed_inputs(Kernel *kernel, int index, Member *member) {
  const Layer *layer = &kernel->layers[index];
  const Groups *groups = rows_fed(kernel, index);
  int numRows = groups->numRows, isLast = index == kernel->model.numLayers - 1, size = kernel->model.layerInputSize, end = layer->inputGate->numPanels * PANEL;
  EACH_ROW(member, place, numRows) {
    int row = isLast ? kernel->active[groups->rows[place]] : groups->rows[place];
    end_ffn(kernel, layer, row, place);
    norm_row(kernel, row, place, (Norm){0}, 0);
  }
  team_next_phase(member);
  multiply(kernel, member, &(LoraRows){.numRows = numRows}, &layer->inputGate, 1, &kernel->normed, kernel->projected, kernel->projectedWidth);
  team_next_phase(member);
  EACH_ROW(member, place, numRows) {
    int row = isLast ? kernel->active[groups->rows[place]] : groups->rows[place];
    const float *inputs = kernel->layerInputs + (size_t)row * (size_t)kernel->layerInputsWidth + (size_t)(index * size);
    float *gated = kernel->gated.floats + (size_t)place * (size_t)kernel->gated.width;
    kernel->loops->gate(kernel->projected + (size_t)place * (size_t)kernel->projectedWidth, inputs, gated, size, (Activation)layer->description.activation);
    memset(gated + size, 0, (size_t)(end - size) * 4);
    if (kernel->rounds) kernel->loops->round_row(&kernel->gated, place, 0, whole(size, GROUP));
  }
  team_next_phase(member);
  multiply(kernel, member, &(LoraRows){.numRows = numRows}, &layer->inputOutput, 1, &kernel->gated, kernel->update, kernel->hiddenWidth);
  team_next_phase(member);
}

/** Keeps a row of the stream in front of a layer. */
static void keep_tap(Kernel *kernel, int row, int place) {
  const size_t size = (size_t)kernel->model.hiddenSize;
  memcpy(kernel->taps + ((size_t)row * (size_t)kernel->numTaps + (size_t)place) * size, kernel->stream + (size_t)row * (size_t)kernel->hiddenWidth, size * 4);
}

/** Runs a layer up to the inputs of its FFN. */
static void attend_layer(Kernel *kernel, int index, Member *member) {
  const Layer *layer = &kernel->layers[index], *before = index > 0 ? layer - 1 : NULL;
  int isLast = index == kernel->model.numLayers - 1;
  const Groups *groups = rows_fed(kernel, index);
  int numRows = groups->numRows, firstProduct = index * LORA_PRODUCTS, normsStream = layer->description.normsStream;
  Cursor at = {kernel->step->sequences, 0};
  if (!before && kernel->hasFused) fuse_rows(kernel, member);
  if (!before && kernel->layerTable) project_inputs(kernel, member);
  EACH_ROW(member, place, kernel->step->numRows) {
    int row = kernel->all.rows[place];
    if (before) end_layer(kernel, before, row, place);
    else if (!kernel->hasStream && !kernel->layerTable) begin_row(kernel, &at, row);
    if (layer->tap > 0) keep_tap(kernel, row, layer->tap - 1);
    if (!before && joins_token(kernel)) norm_with_token(kernel, &kernel->normed, row, layer->attentionNorm);
    else norm_row(kernel, row, row, layer->attentionNorm, normsStream & NORMS_AT_ATTENTION);
  }
  team_next_phase(member);
  observe(kernel, member, &kernel->normed, 0, kernel->step->numRows, layer->mixedSize, layer->attentionSquares);
  LoraRows loraRows = {kernel->step->numRows, kernel->rowLoras, firstProduct + LORA_QUERY, 3, 0};
  loraRows = lower_rows(kernel, member, loraRows, &kernel->normed, layer->mixedSize);
  const Tensor *products[MIXED_PRODUCTS];
  multiply(kernel, member, &loraRows, products, mixed_products(layer, products), &kernel->normed, kernel->projected, kernel->projectedWidth);
  team_next_phase(member);
  if (layer->description.mixing != MIX_ATTENTION) recur_rows(kernel, member, layer, numRows);
  else if (numRows > 0) attend_rows(kernel, member, layer, numRows);
  else place_rows(kernel, member, layer);
  team_next_phase(member);
  if (numRows == 0) return;
  const Rows *attended = layer->heads ? &kernel->byHead : &kernel->attended;
  observe(kernel, member, attended, 0, numRows, layer->attentionOutput->numIn, layer->attendedSquares);
  loraRows = (LoraRows){numRows, isLast ? kernel->activeLoras : kernel->rowLoras, firstProduct + LORA_ATTENTION_OUTPUT, 1, 0};
  loraRows = lower_rows(kernel, member, loraRows, attended, layer->attentionOutput->numIn);
  multiply(kernel, member, &loraRows, &layer->attentionOutput, 1, attended, kernel->update, kernel->hiddenWidth);
  team_next_phase(member);
  EACH_ROW(member, place, numRows) {
    int row = groups->rows[place], streamRow = isLast ? kernel->active[row] : row;
    add_update(kernel, streamRow, row, layer->attentionOutputNorm, layer->description.residualScale);
    if (layer->expertNorm.scales) norm_into(kernel, &kernel->expertInputs, streamRow, place, layer->expertNorm);
    norm_row(kernel, streamRow, place, layer->ffnNorm, normsStream & NORMS_AT_FFN);
  }
  team_next_phase(member);
  observe(kernel, member, &kernel->normed, 0, numRows, kernel->model.hiddenSize, layer->ffnSquares);
}

/** Runs a layer's FFN, without the choice of experts. */
static void feed_layer(Kernel *kernel, int index, Member *member) {
  const Layer *layer = &kernel->layers[index];
  const Groups *groups = rows_fed(kernel, index);
  Feed feed = {
      .layer = layer,
      .numRows = groups->numRows,
      .loras = index == kernel->model.numLayers - 1 ? kernel->wantedLoras : kernel->placeLoras,
      .firstProduct = index * LORA_PRODUCTS,
      .hasShared = layer->up != NULL,
      .groups = groups,
      .inputs = &kernel->normed,
      .gated = &kernel->gated,
      .column = layer->sharedWidth,
      .out = layer->up ? kernel->routed : kernel->update,
  };
  if (layer->router) feed_mixture(kernel, member, &feed);
  else feed_parts(kernel, member, &feed);
}

static void run_layer(Kernel *kernel, int index, Member *member) {
  const Layer *layer = &kernel->layers[index];
  int numRows = rows_fed(kernel, index)->numRows;
  if (kernel->part != PART_FEED) attend_layer(kernel, index, member);
  if (numRows == 0) return;
  if (kernel->part != PART_FEED && layer->router) route_rows(kernel, member, layer, numRows);
  if (kernel->part != PART_ROUTE) feed_layer(kernel, index, member);
  if (kernel->part != PART_ROUTE && layer->inputGate) feed_inputs(kernel, index, member);
}

/** Writes the states of wanted rows, and means of those with the same place, in the order of rows. */
static void write_states(Kernel *kernel, Member *member) {
  const Step *step = kernel->step;
  int32_t size = kernel->model.hiddenSize;
  EACH_ROW(member, first, step->numWanted) {
    int32_t place = step->fullPlaces[first], end = first + 1;
    if (place < 0 || (first > 0 && step->fullPlaces[first - 1] == place)) continue;
    while (end < step->numWanted && step->fullPlaces[end] == place) end++;
    float *out = step->fullLogits + (size_t)place * (size_t)size, count = (float)(end - first);
    for (int32_t wanted = first; wanted < end; wanted++) {
      int32_t row = step->wanted[wanted];
      const float *state = kernel->stream + (size_t)row * kernel->hiddenWidth;
      if (kernel->finalNorm.scales) {
        norm_row(kernel, row, row, kernel->finalNorm, 0);
        state = kernel->normed.floats + (size_t)row * kernel->normed.width;
      }
      for (int32_t i = 0; i < size; i++) out[i] = wanted == first ? state[i] : out[i] + state[i];
    }
    for (int32_t i = 0; i < size; i++) out[i] /= count;
  }
  team_next_phase(member);
}

/** Computes the results of a step whose layers have run. */
static void run_head(Kernel *kernel, Member *member) {
  const Step *step = kernel->step;
  if (kernel->numActive == 0) return;
  const Layer *last = &kernel->layers[kernel->model.numLayers - 1];
  EACH_ROW(member, place, kernel->numActive) {
    int row = kernel->active[kernel->wanted.rows[place]];
    end_layer(kernel, last, row, place);
    if (kernel->tapsEnd) keep_tap(kernel, row, kernel->numTaps - 1);
  }
  team_next_phase(member);
  if (step->numWanted == 0) return;
  if (!kernel->head) return write_states(kernel, member);
  for (int from = 0; from < step->numWanted; from += LOGIT_ROWS) {
    int to = least(from + LOGIT_ROWS, step->numWanted);
    EACH_TASK(member, row, to - from) norm_row(kernel, step->wanted[from + row], row, kernel->finalNorm, 0);
    team_next_phase(member);
    compute_results(kernel, member, from, to);
  }
}

static void run_part(void *context, Member *member) {
  Kernel *kernel = context;
  for (int l = kernel->fromLayer; l < kernel->toLayer; l++) run_layer(kernel, l, member);
  if (kernel->computesResults) run_head(kernel, member);
}

static int is_expert_there(const Kernel *kernel, const Expert *expert) {
  if (!expert->gate.weights || !expert->up.weights || !expert->down.weights) return 0;
  return !kernel->filed || is_lent(kernel, LENT_UNIT, (size_t)(&expert->gate - kernel->tensors));
}

/** Checks that all experts that rows may need in layers `[from, to)` are in memory. */
static int are_experts_there(const Kernel *kernel, int32_t from, int32_t to) {
  for (int32_t l = from; kernel->filed && l < to; l++) {
    const Layer *layer = &kernel->layers[l];
    const Groups *groups = rows_fed(kernel, l);
    // The choice of a mixture is not known yet.
    int32_t count = !layer->experts || groups->numRows == 0 ? 0 : layer->router ? layer->numExperts : groups->numExperts;
    for (int32_t i = 0; i < count; i++)
      if (!is_expert_there(kernel, &layer->experts[layer->router ? i : groups->experts[i]])) return 0;
  }
  return 1;
}

/** Checks that the loras of the step are in memory. */
static int are_loras_there(const Kernel *kernel) {
  for (int32_t i = 0; i < kernel->numUsed; i++)
    if (!is_lent(kernel, LENT_LORA, (size_t)kernel->used[i]->slot)) return 0;
  return 1;
}

/** Returns what the step that has begun lacks: its pages may be closed by now, its loras gone. */
static const char *lacking(const Kernel *kernel) {
  if (!kernel->step) return "a step that has begun";
  if (!are_pages_of(kernel, kernel->step->pages)) return "pages of this kernel that are open";
  return are_loras_there(kernel) ? NULL : "a lora's weights";
}

static void run(Kernel *kernel, int32_t from, int32_t to, LayerPart part) {
  kernel->fromLayer = from;
  kernel->toLayer = to;
  kernel->part = part;
  team_run(&kernel->team, run_part, kernel);
}

/** Runs whole layers, and computes the results of the step if `computesResults`. */
static const char *run_layers(Kernel *kernel, int32_t from, int32_t to, int32_t computesResults) {
  if (!are_experts_there(kernel, from, to)) return "an expert's weights";
  kernel->computesResults = computesResults;
  run(kernel, from, to, PART_WHOLE);
  return NULL;
}

const char *kernel_begin(Kernel *kernel, const Step *step) {
  kernel->step = NULL;
  const char *error = check_step(kernel, step);
  if (error) return error;
  kernel->begun = *step;
  kernel->step = &kernel->begun;
  kernel->toLayer = 0;
  kernel->isRouted = 0;
  kernel->hasStream = kernel->hasFused = 0;
  kernel->numActive = 0;
  kernel->firstKept = (step->numWanted - 1) / LOGIT_ROWS * LOGIT_ROWS;
  kernel->endKept = kernel->head ? step->numWanted : kernel->firstKept;
  for (int i = 0; kernel->tapsEnd && i < step->numRows; i++) kernel->active[kernel->numActive++] = i;
  for (int i = 0; !kernel->tapsEnd && i < step->numWanted; i++)
    if (i == 0 || step->wanted[i] != step->wanted[i - 1]) kernel->active[kernel->numActive++] = step->wanted[i];
  group_rows(kernel);
  find_loras(kernel);
  if (are_loras_there(kernel)) return NULL;
  kernel->step = NULL;
  return "a lora's weights";
}

const char *kernel_run_layers(Kernel *kernel, int32_t from, int32_t to) {
  const char *error = lacking(kernel);
  if (error) return error;
  if (kernel->isRouted || from != kernel->toLayer || to <= from || to > kernel->model.numLayers) return "the layers that come next";
  return run_layers(kernel, from, to, 0);
}

/** Copies the choices from the order of the FFN's rows to that of the step's. */
static void list_chosen(Kernel *kernel, int32_t layer) {
  const Groups *groups = rows_fed(kernel, layer);
  size_t count = (size_t)kernel->layers[layer].description.expertsPerToken;
  kernel->numChosen = (size_t)groups->numRows * count;
  for (int32_t place = 0; place < groups->numRows; place++)
    memcpy(kernel->chosen + (size_t)groups->rows[place] * count, kernel->choices + (size_t)place * count, count * sizeof(int32_t));
}

const char *kernel_route(Kernel *kernel, int32_t layer) {
  const char *error = lacking(kernel);
  if (error) return error;
  if (kernel->isRouted || layer != kernel->toLayer || layer >= kernel->model.numLayers) return "the layer that comes next";
  if (!kernel->layers[layer].router) return "a layer with a router";
  kernel->computesResults = 0;
  run(kernel, layer, layer + 1, PART_ROUTE);
  kernel->toLayer = layer;
  kernel->isRouted = 1;
  list_chosen(kernel, layer);
  return NULL;
}

const int32_t *kernel_chosen(const Kernel *kernel, size_t *length) {
  *length = kernel->numChosen;
  return kernel->chosen;
}

const char *kernel_feed(Kernel *kernel, int32_t layer) {
  const char *error = lacking(kernel);
  if (error) return error;
  if (!kernel->isRouted || layer != kernel->toLayer) return "the layer whose experts are chosen";
  const Layer *own = &kernel->layers[layer];
  for (int32_t e = 0; e < own->numExperts; e++) kernel->counts[e] = 0;
  for (size_t i = 0; i < kernel->numChosen; i++)
    if (kernel->counts[kernel->chosen[i]]++ == 0 && !is_expert_there(kernel, &own->experts[kernel->chosen[i]])) return "an expert's weights";
  run(kernel, layer, layer + 1, PART_FEED);
  kernel->isRouted = 0;
  return NULL;
}

const char *kernel_end(Kernel *kernel) {
  const char *error = lacking(kernel);
  if (error) return error;
  if (kernel->toLayer != kernel->model.numLayers) return "a step whose layers have run";
  error = run_layers(kernel, kernel->toLayer, kernel->toLayer, 1);
  kernel->step = NULL;
  return error;
}

const char *kernel_step(Kernel *kernel, const Step *step) {
  const char *error = kernel_begin(kernel, step);
  if (!error) error = run_layers(kernel, 0, kernel->model.numLayers, 1);
  kernel->step = NULL;
  return error;
}
