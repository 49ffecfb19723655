// Mixtures: layers that choose experts of each row by a router of their own. A row and one of its experts are a pair.
// The pairs of some rows are sorted by expert, so that an expert is read once for all its rows.

#include "memory.h"
#include "phases.h"

/** Number of pairs whose inputs one task copies. */
enum { GATHERED_PAIRS = 16 };

static float sigmoid(const Kernel *kernel, float logit) {
  float away[16] = {logit < 0 ? logit : -logit}, power[16];
  kernel->loops->exponentials(away, 0, power, 16);
  return (logit < 0 ? power[0] : 1) / (1 + power[0]) + (logit - logit);
}

/** Turns logits into sigmoids, and writes them with their biases behind them. @returns these */
static float *biased_sigmoids(const Kernel *kernel, const Layer *layer, float *logits, float *unsound) {
  float *biased = logits + kernel->routerWidth / 2;
  for (int32_t e = 0; e < layer->numExperts; e++) {
    *unsound += logits[e] - logits[e];
    logits[e] = sigmoid(kernel, logits[e]);
    biased[e] = logits[e] + layer->routerBias[e];
  }
  return biased;
}

/** Writes the weights of chosen experts, which are sigmoids: as they are, or divided by their sum. */
static void weigh_sigmoids(const LayerDescription *d, const float *sigmoids, const int32_t *experts, float unsound, float *weights) {
  float sum = 0;
  for (int32_t i = 0; i < d->expertsPerToken; i++) sum += sigmoids[experts[i]];
  for (int32_t i = 0; i < d->expertsPerToken; i++)
    weights[i] = (d->normalizesWeights ? sigmoids[experts[i]] / (sum + 1e-6f) : sigmoids[experts[i]]) * d->routedScale + unsound;
}

/** Chooses the experts with the largest logits of a row, lower experts first among equals, and their weights. */
static void choose(Kernel *kernel, const Layer *layer, int row) {
  int32_t count = layer->description.expertsPerToken, numChosen = 0;
  float *logits = kernel->routerLogits + (size_t)row * (size_t)kernel->routerWidth;
  float *weights = kernel->choiceWeights + (size_t)row * (size_t)count;
  int32_t *experts = kernel->choices + (size_t)row * (size_t)count;
  float best[MOST_CHOSEN] = {0}, unsound = 0, sum = 0, scale = layer->description.routedScale;
  if (layer->gatesShared) kernel->sharedWeights[row] = sigmoid(kernel, logits[layer->numExperts]);
  const float *sigmoids = logits;
  if (layer->routerBias) logits = biased_sigmoids(kernel, layer, logits, &unsound);
  for (int32_t e = 0; e < layer->numExperts; e++) {
    unsound += logits[e] - logits[e];
    // A NaN is the least, so that the choice is always whole.
    float logit = logits[e] > -__builtin_inff() ? logits[e] : -__builtin_inff();
    int32_t rank = numChosen;
    while (rank > 0 && logit > best[rank - 1]) rank--;
    if (rank == count) continue;
    if (numChosen < count) numChosen++;
    for (int32_t i = numChosen - 1; i > rank; i--) best[i] = best[i - 1], experts[i] = experts[i - 1];
    best[rank] = logit, experts[rank] = e;
  }
  if (layer->routerBias) return weigh_sigmoids(&layer->description, sigmoids, experts, unsound, weights);
  if (layer->description.normalizesWeights) {
    float shares[MOST_CHOSEN];
    kernel->loops->exponentials(best, best[0], shares, (count + 15) / 16 * 16);
    for (int32_t i = 0; i < count; i++) sum += shares[i];
    for (int32_t i = 0; i < count; i++) weights[i] = shares[i] / sum * scale + unsound;
    return;
  }
  kernel->loops->exponentials(logits, best[0], logits, (layer->numExperts + 15) / 16 * 16);
  for (int32_t e = 0; e < layer->numExperts; e++) sum += logits[e];
  // Logits that are not finite show in every output.
  for (int32_t i = 0; i < count; i++) weights[i] = logits[experts[i]] / sum * scale + unsound;
}

/** Returns the rows that a layer's router and experts read. */
static const Rows *expert_inputs(const Kernel *kernel, const Layer *layer) { return layer->expertNorm.scales ? &kernel->expertInputs : &kernel->normed; }

void route_rows(Kernel *kernel, Member *member, const Layer *layer, int numRows) {
  // Rows are multiplied as they are, not rounded.
  Tensor router = *layer->router;
  router.format = FORMAT_ROUTER;
  multiply(kernel, member, &(LoraRows){.numRows = numRows}, (const Tensor *const[]){&router}, 1, expert_inputs(kernel, layer), kernel->routerLogits,
           kernel->routerWidth);
  team_next_phase(member);
  EACH_TASK(member, row, numRows) {
    choose(kernel, layer, row);
    size_t first = (size_t)row * (size_t)layer->description.expertsPerToken;
    for (int32_t i = 0; layer->expertScales && i < layer->description.expertsPerToken; i++)
      kernel->choiceWeights[first + (size_t)i] *= layer->expertScales[kernel->choices[first + (size_t)i]];
  }
  team_next_phase(member);
}

/** Copies the parts of a row's inputs that products of a mixture's experts read. */
static void copy_row(const Rows *from, size_t row, const Rows *to, size_t place, int hasFloats, int isRounded) {
  // Rows of a draft head have room for the inputs of its attention too.
  size_t width = (size_t)to->width, groups = width / GROUP, first = row * (size_t)from->width, firstGroup = first / GROUP;
  if (hasFloats) memcpy(to->floats + place * width, from->floats + first, width * 4);
  if (!isRounded) return;
  memcpy(to->values + place * width, from->values + first, width);
#ifdef __wasm__
  memcpy(to->wide + place * width, from->wide + first, width * 2);
#endif
  memcpy(to->scales + place * groups, from->scales + firstGroup, groups * 4);
  memcpy(to->sums + place * groups, from->sums + firstGroup, groups * 4);
  memcpy(to->offsets + place * groups, from->offsets + firstGroup, groups * 4);
  memcpy(to->halfSums + place * groups, from->halfSums + firstGroup, groups * 4);
}

/** Copies the inputs of pairs, from place `from` on, of rows from `firstRow` on. */
static void gather(Kernel *kernel, const Layer *layer, int firstRow, int from) {
  int end = least(from + GATHERED_PAIRS, kernel->pairs.numRows), hasFloats = layer->readsFloats || kernel->step->inputSquares;
  for (int place = from; place < end; place++) {
    int row = firstRow + kernel->pairs.rows[place] / layer->description.expertsPerToken;
    copy_row(expert_inputs(kernel, layer), (size_t)row, &kernel->pairInputs, (size_t)place, hasFloats, layer->readsRounded);
  }
}

/** Adds up the weighted outputs of a row's experts, the most probable one first. */
static void mix(Kernel *kernel, const Layer *layer, int firstRow, int row, float *out) {
  size_t count = (size_t)layer->description.expertsPerToken, width = (size_t)kernel->hiddenWidth;
  const float *weights = kernel->choiceWeights + (size_t)row * count;
  const int32_t *places = kernel->pairPlaces + (size_t)(row - firstRow) * count;
  memset(out, 0, width * 4);
  for (size_t i = 0; i < count; i++) kernel->loops->add_scaled(out, kernel->pairOutputs + (size_t)places[i] * width, weights[i], kernel->hiddenWidth);
}

void feed_mixture(Kernel *kernel, Member *member, const Feed *feed) {
  const Layer *layer = feed->layer;
  int count = layer->description.expertsPerToken, rows = rows_of_pairs(count);
  Feed part = *feed;
  part.groups = &kernel->pairs;
  part.inputs = &kernel->pairInputs;
  part.gated = &kernel->pairGated;
  part.column = 0;
  part.out = kernel->pairOutputs;
  for (int from = 0; from < feed->numRows; from += rows) {
    int to = least(from + rows, feed->numRows);
    EACH_TASK(member, task, 1) group_pairs(kernel, layer, from, to);
    team_next_phase(member);
    EACH_TASK(member, task, ((to - from) * count + GATHERED_PAIRS - 1) / GATHERED_PAIRS) gather(kernel, layer, from, task * GATHERED_PAIRS);
    team_next_phase(member);
    part.hasShared = feed->hasShared && from == 0;
    part.isLater = from > 0;
    feed_parts(kernel, member, &part);
    EACH_TASK(member, row, to - from) mix(kernel, layer, from, from + row, feed->out + (size_t)(from + row) * (size_t)kernel->hiddenWidth);
    team_next_phase(member);
  }
}
