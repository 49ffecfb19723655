#include "model.h"
#include "blocks.h"
#include <stdlib.h>
#include <string.h>
#include "loras.h"
#include "tensors.h"

static int32_t random_format(Random *random) {
  static const Format PLAIN[] = {FORMAT_FLOAT, FORMAT_INT8, FORMAT_HALF, FORMAT_BFLOAT};
  return one_in(random, 3) ? (int32_t)PLAIN[random_in(random, 0, 3)] : random_in(random, FORMAT_BLOCKS, FORMAT_BLOCKS + NUM_BLOCK_TYPES - 1);
}

/** What tensors of a model have in common. */
typedef struct {
  /** -1 for each tensor's own. */
  int32_t format;
  int32_t hiddenSize, headSize, numKvHeads, numExperts, layerInputSize;
  /** Number of inputs of attention. */
  int32_t mixedSize;
  /** Whether many layers are mixtures. */
  int32_t hasMixtures;
} Shape;

static int32_t add(Pack *pack, Random *random, const Shape *shape, int32_t numOut, int32_t numIn) {
  int32_t format = shape->format < 0 ? random_format(random) : shape->format;
  return add_weights(pack, random, (Format)format, numOut, numIn);
}

static LayerDescription make_layer(Pack *pack, Random *random, const Shape *shape, int32_t perKey, int32_t rotary, int32_t rotarySize) {
  int32_t hidden = shape->hiddenSize, numHeads = perKey * shape->numKvHeads, ffnSize = one_in(random, 3) ? 256 : random_in(random, 1, 300);
  int32_t querySize = numHeads * shape->headSize, keySize = shape->numKvHeads * shape->headSize, allHeads = one_in(random, 4);
  int32_t isMixture = one_in(random, shape->hasMixtures ? 2 : 8), numRouted = isMixture ? random_in(random, 1, 16) : 0;
  int32_t hasExperts = isMixture || (shape->numExperts > 1 && !one_in(random, 4)), hasShared = !hasExperts || one_in(random, 2);
  LayerDescription layer = {
      .attentionNorm = add_norm(pack, random, hidden, !one_in(random, 4)),
      .query = add(pack, random, shape, querySize, shape->mixedSize),
      .key = add(pack, random, shape, keySize, shape->mixedSize),
      .value = add(pack, random, shape, keySize, shape->mixedSize),
      .queryNorm = add_norm(pack, random, allHeads ? querySize : shape->headSize, 0),
      .keyNorm = add_norm(pack, random, allHeads ? keySize : shape->headSize, 0),
      .attentionOutput = add(pack, random, shape, hidden, querySize),
      .attentionOutputNorm = add_norm(pack, random, hidden, 0),
      .ffnNorm = add_norm(pack, random, hidden, !one_in(random, 4)),
      .gate = !hasShared || one_in(random, 3) ? -1 : add(pack, random, shape, ffnSize, hidden),
      .up = hasShared ? add(pack, random, shape, ffnSize, hidden) : -1,
      .down = hasShared ? add(pack, random, shape, hidden, ffnSize) : -1,
      .ffnOutputNorm = add_norm(pack, random, hidden, 0),
      .numHeads = numHeads,
      .numKvHeads = shape->numKvHeads,
      .headSize = shape->headSize,
      .rotary = rotary,
      .queryRotary = rotary,
      .rotarySize = rotarySize,
      .window = one_in(random, 2) ? 0 : random_in(random, 1, 40),
      .activation = random_in(random, ACTIVATION_SILU, ACTIVATION_CLAMPED),
      .normsStream = one_in(random, 2) ? 0 : random_in(random, 0, NORMS_AT_ATTENTION | NORMS_AT_FFN),
      .normsAllHeads = allHeads,
      .attentionScale = 1.0f / __builtin_sqrtf((float)shape->headSize),
      .residualScale = one_in(random, 2) ? 1.0f : 0.5f,
      .router = isMixture ? add_weights(pack, random, FORMAT_FLOAT, numRouted + (hasShared && one_in(random, 2)), hidden) : -1,
      .numRouted = numRouted,
      .expertsPerToken = isMixture ? random_in(random, 1, numRouted < 8 ? numRouted : 8) : 0,
      .normalizesWeights = one_in(random, 2),
      .routerBias = isMixture && one_in(random, 2) ? add_norm(pack, random, numRouted, 1) : -1,
      .routedScale = 1.0f,
      .valueSize = shape->headSize,
      .convolution = -1,
      .rates = -1,
      .outputGate = one_in(random, 4) ? add(pack, random, shape, querySize, shape->mixedSize) : -1,
      .strength = -1,
      .decay = -1,
      .outputNorm = -1,
      .sinks = one_in(random, 4) ? add_norm(pack, random, numHeads, 1) : -1,
      .valueNorm = add_norm(pack, random, shape->headSize, 0),
      .keysOf = -1,
      .inputGate = -1,
      .inputOutput = -1,
      .inputOutputNorm = add_norm(pack, random, hidden, 0),
      .streamScale = add_norm(pack, random, hidden, 0),
      .firstHead = -1,
      .queryLow = -1,
      .queryLowNorm = -1,
      .expertNorm = isMixture && hasShared ? add_norm(pack, random, hidden, 0) : -1,
      .sharedOutputNorm = isMixture && hasShared ? add_norm(pack, random, hidden, 0) : -1,
      .expertOutputNorm = isMixture && hasShared ? add_norm(pack, random, hidden, 0) : -1,
      .expertScales = isMixture && one_in(random, 3) ? add_norm(pack, random, numRouted, 1) : -1,
  };
  if (shape->layerInputSize > 0 && !one_in(random, 3)) {
    layer.inputGate = add(pack, random, shape, shape->layerInputSize, hidden);
    layer.inputOutput = add(pack, random, shape, hidden, shape->layerInputSize);
  }
  layer.firstExpert = hasExperts ? pack->numTensors : -1;
  int32_t expertSize = random_in(random, 1, 100);
  for (int32_t e = 0; hasExperts && e < (isMixture ? numRouted : shape->numExperts); e++) {
    add(pack, random, shape, expertSize, hidden);
    add(pack, random, shape, expertSize, hidden);
    add(pack, random, shape, hidden, expertSize);
  }
  return layer;
}

/** Makes the layer's mixing a recurrence of a random kind. */
static void make_recurrent(Pack *pack, Random *random, const Shape *shape, LayerDescription *layer) {
  int32_t hidden = shape->hiddenSize, kind = random_in(random, MIX_CONVOLUTION, MIX_SPACE), isShort = kind == MIX_CONVOLUTION;
  int32_t numKvHeads = isShort ? 1 : random_in(random, 1, 2), numHeads = isShort ? 1 : numKvHeads * random_in(random, 1, 3);
  int32_t headSize = isShort ? hidden : 4 * random_in(random, 1, 8), valueSize = isShort ? hidden : random_in(random, 1, 40);
  // Heads that share a key are normed in whole vectors.
  if (kind == MIX_SPACE && numKvHeads > 1) valueSize = whole(valueSize, 16);
  int32_t keys = numKvHeads * headSize, values = numHeads * valueSize, numTaps = random_in(random, 2, 5);
  int32_t width = isShort ? whole(hidden, PANEL) : 2 * whole(keys, PANEL) + whole(values, PANEL);
  layer->mixing = kind, layer->valueSize = valueSize, layer->numTaps = numTaps, layer->isTiled = one_in(random, 2);
  layer->numHeads = numHeads, layer->numKvHeads = numKvHeads, layer->headSize = headSize;
  layer->rotary = layer->queryRotary = -1, layer->rotarySize = 0, layer->window = 0, layer->queryNorm = layer->keyNorm = -1, layer->normsAllHeads = 0, layer->sinks = -1;
  layer->query = add(pack, random, shape, keys, shape->mixedSize);
  layer->key = add(pack, random, shape, keys, shape->mixedSize);
  layer->value = add(pack, random, shape, values, shape->mixedSize);
  layer->attentionOutput = add(pack, random, shape, hidden, values);
  layer->convolution = add_weights(pack, random, FORMAT_FLOAT_TABLE, numTaps + one_in(random, 2), width);
  if (isShort) return;
  layer->outputGate = add(pack, random, shape, values, shape->mixedSize);
  layer->decay = add(pack, random, shape, numHeads, shape->mixedSize);
  if (kind == MIX_DELTA) layer->strength = add(pack, random, shape, numHeads, shape->mixedSize);
  layer->rates = add_weights(pack, random, FORMAT_FLOAT_TABLE, RATE_ROWS, whole(numHeads, PANEL));
  layer->outputNorm = add_norm(pack, random, kind == MIX_DELTA ? valueSize : values, 1);
}

/** Makes the layer's attention latent: its keys are of another size then, and one head. */
static void make_latent(Pack *pack, Random *random, const Shape *shape, LayerDescription *layer) {
  int32_t latent = 16 * random_in(random, 1, 4), plain = random_in(random, 1, 40), value = 16 * random_in(random, 1, 3), numHeads = random_in(random, 1, 5);
  int32_t rank = one_in(random, 2) ? random_in(random, 1, 100) : 0;
  layer->numHeads = numHeads, layer->numKvHeads = 1, layer->headSize = layer->valueSize = latent + layer->rotarySize;
  layer->normsAllHeads = 0, layer->value = layer->queryNorm = layer->valueNorm = layer->outputGate = -1;
  layer->sinks = one_in(random, 4) ? add_norm(pack, random, numHeads, 1) : -1;
  layer->queryLow = rank > 0 ? add(pack, random, shape, rank, shape->mixedSize) : -1;
  layer->queryLowNorm = rank > 0 ? add_norm(pack, random, rank, 1) : -1;
  layer->query = add(pack, random, shape, numHeads * (plain + layer->rotarySize), rank > 0 ? rank : shape->mixedSize);
  layer->key = add(pack, random, shape, latent + layer->rotarySize, shape->mixedSize);
  layer->keyNorm = add_norm(pack, random, latent, 1);
  layer->attentionOutput = add(pack, random, shape, shape->hiddenSize, numHeads * value);
  layer->firstHead = pack->numTensors;
  for (int32_t h = 0; h < numHeads; h++) add(pack, random, shape, latent, plain);
  for (int32_t h = 0; h < numHeads; h++) add(pack, random, shape, value, latent);
}

/** Lets a layer read the keys and values of one before it, now and then, if their heads have the same sizes. */
static void share_keys(Random *random, LayerDescription *layers, int32_t index) {
  LayerDescription *layer = &layers[index];
  int32_t from = index > 0 && one_in(random, 3) ? random_in(random, 0, index - 1) : -1;
  if (from < 0 || layer->mixing != MIX_ATTENTION || layers[from].mixing != MIX_ATTENTION || layers[from].keysOf != -1 ||
      layer->firstHead != -1 || layers[from].firstHead != -1 || layer->headSize != layers[from].headSize || layer->numKvHeads != layers[from].numKvHeads)
    return;
  layer->keysOf = from;
  layer->key = layer->value = -1;
}

/** Adds inputs of layers, which some models have. */
static void add_inputs(Pack *pack, Random *random, TestModel *made, Shape *shape) {
  ModelDescription *model = &made->model;
  model->layerTable = model->layerProjection = model->layerInputNorm = -1;
  model->layerTableScale = 1.5f;
  if (model->isEncoder || !one_in(random, 3)) return;
  model->layerInputSize = shape->layerInputSize = 16 * random_in(random, 1, 3);
  int32_t width = model->numLayers * model->layerInputSize;
  model->layerTable = add_weights(pack, random, one_in(random, 2) ? FORMAT_FLOAT_TABLE : FORMAT_HALF_TABLE, model->vocabSize, width);
  model->layerProjection = add(pack, random, shape, width, model->hiddenSize);
  model->layerInputNorm = add_norm(pack, random, model->layerInputSize, 1);
}

/** Adds what a draft head has in front of its first layer. */
static void add_fusion(Pack *pack, Random *random, TestModel *made, const Shape *shape) {
  ModelDescription *model = &made->model;
  model->tokenNorm = model->fusion = model->stateNorm = -1;
  if (model->isEncoder || !one_in(random, 4)) return;
  if (model->hiddenSize % PANEL == 0) model->tokenNorm = add_norm(pack, random, model->hiddenSize, 1);
  if (model->tokenNorm != -1 && one_in(random, 3)) model->stateNorm = add_norm(pack, random, model->hiddenSize, 1);
  int32_t numFused = model->stateNorm != -1 ? model->hiddenSize : random_in(random, 1, 300);
  if (model->stateNorm != -1 || one_in(random, 2)) model->fusion = add(pack, random, shape, model->hiddenSize, model->hiddenSize + numFused);
}

/** Lays out the file: descriptions, then at the next multiple of 64 the tensors' bytes. */
static void lay_out(TestModel *made, const LayerDescription *layers, Pack *pack) {
  size_t layerBytes = (size_t)made->model.numLayers * sizeof *layers, tensorBytes = (size_t)pack->numTensors * sizeof *pack->tensors;
  size_t start = (sizeof made->model + layerBytes + tensorBytes + 63) / 64 * 64;
  for (int32_t i = 0; i < pack->numTensors; i++) {
    TensorDescription *t = &pack->tensors[i];
    t->weights += (int32_t)(start / 64);
    if (t->scales >= 0) t->scales += (int32_t)(start / 64);
    if (t->bias >= 0) t->bias += (int32_t)(start / 64);
  }
  made->model.numTensors = pack->numTensors;
  uint8_t *whole = calloc(1, start + pack->size);
  if (!whole) abort();
  memcpy(whole, &made->model, sizeof made->model);
  memcpy(whole + sizeof made->model, layers, layerBytes);
  memcpy(whole + sizeof made->model + layerBytes, pack->tensors, tensorBytes);
  memcpy(whole + start, pack->bytes, pack->size);
  made->bytes = start + pack->size;
  made->file = aligned_copy(whole, made->bytes);
  free(whole);
  free(pack->bytes);
}

/** Adds tables of positions, segments and distances, some of which encoders have. */
static void add_tables(Pack *pack, Random *random, TestModel *made, int32_t numHeads) {
  ModelDescription *model = &made->model;
  int32_t hidden = model->hiddenSize, reach = (made->options.maxPositions + PAGE_TOKENS - 1) / PAGE_TOKENS * PAGE_TOKENS;
  made->numTokens = model->vocabSize;
  model->positions = model->segments = model->distances = -1;
  if (!model->isEncoder) return;
  if (one_in(random, 2)) model->positions = add_weights(pack, random, FORMAT_FLOAT_TABLE, made->options.maxPositions, hidden);
  if (one_in(random, 2)) model->distances = add_weights(pack, random, FORMAT_FLOAT_TABLE, numHeads, 2 * reach);
  if (one_in(random, 2)) return;
  int32_t numSegments = random_in(random, 1, 3);
  model->segments = add_weights(pack, random, FORMAT_HALF_TABLE, numSegments, hidden);
  made->numTokens *= numSegments;
}

TestModel make_model(Random *random) {
  enum { MOST_LAYERS = 3 };
  TestModel made = {.model = {.magic = KERNEL_MAGIC, .version = KERNEL_VERSION}};
  ModelDescription *model = &made.model;
  model->numLayers = random_in(random, 1, MOST_LAYERS);
  model->vocabSize = random_in(random, 5, 300);
  // A router's head has as many outputs as there are experts, which is another number.
  model->numLogits = one_in(random, 3) ? random_in(random, 1, 300) : model->vocabSize;
  // Rows of whole blocks of 256 now and then.
  model->hiddenSize = one_in(random, 3) ? 256 : random_in(random, 16, 200);
  model->numExperts = one_in(random, 2) ? 1 : random_in(random, 2, 5);
  model->embeddingScale = one_in(random, 2) ? 1.0f : 3.5f;
  model->isEncoder = one_in(random, 3);
  if (model->isEncoder) model->numExperts = 1;
  int32_t hasRecurrences = !model->isEncoder && one_in(random, 2);
  int32_t givesStates = one_in(random, model->isEncoder ? 2 : 8);
  if (givesStates) model->numLogits = model->hiddenSize;
  model->logitScale = one_in(random, 2) ? 1.0f : 0.25f;
  model->scoreCap = one_in(random, 4) ? 3 : 0;
  model->logitCap = one_in(random, 4) ? 2 : 0;
  model->normEpsilon = 1e-5f;
  model->numRotaries = random_in(random, 0, model->numLayers < 2 ? model->numLayers : 2);
  Shape shape = {
      .format = one_in(random, 3) ? -1 : random_format(random),
      .hiddenSize = model->hiddenSize,
      .headSize = 2 * random_in(random, 1, 40),
      .numKvHeads = random_in(random, 1, 3),
      .numExperts = model->numExperts,
      .hasMixtures = one_in(random, 2),
  };
  // At most 512 queries, so that a model stays small; now and then more heads to a key head than attend at once.
  int32_t mostPerKey = 512 / (shape.headSize * shape.numKvHeads);
  mostPerKey = mostPerKey < 1 ? 1 : mostPerKey > 16 ? 16 : mostPerKey;
  Pack pack = {.numTensors = 0};
  LayerDescription layers[MOST_LAYERS];
  int32_t perKey = random_in(random, 1, mostPerKey);
  add_inputs(&pack, random, &made, &shape);
  add_fusion(&pack, random, &made, &shape);
  for (int32_t i = 0; i < model->numRotaries; i++) made.rotarySizes[i] = i > 0 && one_in(random, 2) ? made.rotarySizes[0] : 2 * random_in(random, 1, shape.headSize / 2);
  for (int32_t l = 0; l < model->numLayers; l++) {
    int32_t rotary = l < model->numRotaries ? l : random_in(random, -1, model->numRotaries - 1);
    // A table of distances has as many heads as each layer.
    if (!model->isEncoder && one_in(random, 4)) perKey = random_in(random, 1, mostPerKey);
    int32_t rotated = rotary < 0 ? 0 : made.rotarySizes[rotary];
    Shape own = shape;
    shape.mixedSize = own.mixedSize = l == 0 && model->tokenNorm != -1 && model->stateNorm == -1 ? 2 * model->hiddenSize : model->hiddenSize;
    if (!model->isEncoder && one_in(random, 4)) own.headSize = 2 * random_in(random, rotated > 2 ? rotated / 2 : 1, shape.headSize / 2);
    layers[l] = make_layer(&pack, random, &own, perKey, rotary, rotated);
    // Another set for queries than for keys.
    int32_t other = random_in(random, 0, 1);
    if (rotary >= 0 && other < model->numRotaries && made.rotarySizes[other] == made.rotarySizes[rotary]) layers[l].queryRotary = other;
    if (!model->isEncoder && rotary >= 0 && one_in(random, 4)) make_latent(&pack, random, &own, &layers[l]);
    // Layers that show that a set of angles is used keep it.
    if (!model->isEncoder) share_keys(random, layers, l);
    if (!hasRecurrences || l < model->numRotaries || layers[l].keysOf != -1 || layers[l].firstHead != -1 || one_in(random, 3)) continue;
    layers[l].outputGate = -1;
    make_recurrent(&pack, random, &shape, &layers[l]);
    made.hasStates = 1;
  }
  model->finalNorm = add_norm(&pack, random, model->hiddenSize, 1);
  model->head = givesStates ? -1 : add(&pack, random, &shape, model->numLogits, model->hiddenSize);
  Format table = one_in(random, 2) ? FORMAT_FLOAT_TABLE : FORMAT_HALF_TABLE;
  int32_t isTied = !givesStates && model->numLogits == model->vocabSize && one_in(random, 2);
  model->embedding = isTied ? model->head : add_weights(&pack, random, table, model->vocabSize, model->hiddenSize);
  made.numPages = random_in(random, 6, 24);
  made.type = random_in(random, KV_FLOAT, KV_BYTE);
  made.options = (KernelOptions){
      .numThreads = 1,
      .maxRows = one_in(random, 4) ? random_in(random, 1, 4) : random_in(random, 5, 80),
      .maxPositions = random_in(random, 20, 150),
  };
  add_tables(&pack, random, &made, shape.numKvHeads * perKey);
  lay_out(&made, layers, &pack);
  for (int32_t i = 0; i < model->numRotaries; i++) {
    int32_t count = made.rotarySizes[i] * made.options.maxPositions;
    made.angles[i] = malloc((size_t)count * 4);
    if (!made.angles[i]) abort();
    for (int32_t j = 0; j < count; j++) made.angles[i][j] = random_float(random, 1);
  }
  made.numLoras = one_in(random, 2) ? 0 : random_in(random, 1, TEST_LORAS);
  for (int32_t i = 0; i < made.numLoras; i++) made.loras[i] = make_lora(random, &made.model, layers, pack.tensors, &made.loraBytes[i]);
  return made;
}

uint8_t *aligned_copy(const uint8_t *from, size_t bytes) {
  void *copy = NULL;
  // A size of 0 would not be an address of its own.
  if (posix_memalign(&copy, 64, bytes > 0 ? bytes : 1) != 0) abort();
  memcpy(copy, from, bytes);
  return copy;
}

const char *open_model(const TestModel *model, const Loops *loops, int32_t numThreads, Opened *opened) {
  const char *error = NULL;
  KernelOptions options = model->options;
  options.numThreads = numThreads;
  opened->kernel = kernel_open(model->file, model->bytes, &options, loops, &error);
  if (!opened->kernel) return error ? error : "no reason";
  if (kernel_open_pages(opened->kernel, model->numPages, model->hasStates ? TEST_STATES : 0, model->type, &opened->pages) != 0) {
    kernel_close(opened->kernel);
    return "pages";
  }
  for (int32_t i = 0; i < model->model.numRotaries && !error; i++)
    error = kernel_set_rotary(opened->kernel, i, 0, model->angles[i], (size_t)model->rotarySizes[i] * (size_t)options.maxPositions);
  for (int32_t i = 0; i < model->numLoras && !error; i++) error = kernel_place_lora(opened->kernel, i, model->loras[i], model->loraBytes[i]);
  if (error) close_opened(opened);
  return error;
}

void close_opened(Opened *opened) {
  kernel_close_pages(&opened->pages);
  kernel_close(opened->kernel);
}

void free_model(TestModel *model) {
  free(model->file);
  for (int i = 0; i < MOST_ROTARIES; i++) free(model->angles[i]);
  for (int i = 0; i < model->numLoras; i++) free(model->loras[i]);
}
