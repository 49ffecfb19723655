// Opens a packed file. Every size and offset is checked before a read depends on it.

#include "memory.h"
#include "phases.h"
#include "platform.h"
#include "reader.h"

/** Allocates memory that the kernel frees when it is closed; NULL on failure. */
static void *allocate_block(Kernel *kernel, uint64_t count, size_t bytes) {
  if (kernel->numBlocks == MOST_BLOCKS || (bytes > 0 && count > SIZE_MAX / bytes)) return NULL;
  void *block = platform_allocate((size_t)count * bytes);
  if (block) kernel->blocks[kernel->numBlocks++] = block;
  return block;
}

/** Finds experts of equal sizes, whose tensors are side by side; NULL for -1. */
static const Expert *experts_at(Reader *reader, const Kernel *kernel, int32_t first, int32_t numExperts) {
  int32_t hidden = kernel->model.hiddenSize;
  if (first == -1) return NULL;
  if (first < 0 || (int64_t)first + 3 * (int64_t)numExperts > kernel->model.numTensors) {
    fail(reader, "the place of a layer's experts");
    return NULL;
  }
  int32_t size = kernel->tensors[first + 1].numOut;
  for (int32_t i = first; i < first + 3 * numExperts; i += 3) {
    weights_at(reader, kernel, i, size, hidden, 1);
    weights_at(reader, kernel, i + 1, size, hidden, 1);
    weights_at(reader, kernel, i + 2, hidden, size, 1);
  }
  return (const Expert *)&kernel->tensors[first];
}

/** Reads what a layer with a router has besides its experts. */
static int read_mixture(Reader *reader, const Kernel *kernel, const LayerDescription *d, Layer *layer) {
  const Tensor *router = tensor_at(reader, kernel, d->router, 1);
  if (reader->error) return 0;
  layer->gatesShared = layer->up && router->numOut == layer->numExperts + 1;
  layer->router = weights_at(reader, kernel, d->router, layer->numExperts + layer->gatesShared, kernel->model.hiddenSize, 1);
  if (reader->error) return 0;
  if (layer->router->format != FORMAT_FLOAT) return fail(reader, "the format of a router");
  layer->routerBias = norm_at(reader, kernel, d->routerBias, layer->numExperts).scales;
  layer->expertScales = norm_at(reader, kernel, d->expertScales, layer->numExperts).scales;
  for (int32_t e = 0; e < layer->numExperts; e++) {
    const Expert *expert = &layer->experts[e];
    layer->readsFloats |= reads_floats(expert->gate.format) || reads_floats(expert->up.format);
    layer->readsRounded |= !reads_floats(expert->gate.format) || !reads_floats(expert->up.format);
  }
  return 1;
}

/** Reads what a recurrence has in place of angles and a window, and what attention may have as well. */
static int read_mixing(Reader *reader, Kernel *kernel, Layer *layer) {
  const LayerDescription *d = &layer->description;
  const int32_t hidden = layer->mixedSize, isRecurrent = d->mixing > MIX_CONVOLUTION, size = d->numHeads * d->valueSize;
  layer->outputGate = weights_at(reader, kernel, d->outputGate, size, hidden, isRecurrent);
  layer->strength = weights_at(reader, kernel, d->strength, d->numHeads, hidden, d->mixing == MIX_DELTA);
  layer->decay = weights_at(reader, kernel, d->decay, d->numHeads, hidden, isRecurrent);
  layer->sinks = norm_at(reader, kernel, d->mixing == MIX_ATTENTION ? d->sinks : -1, d->numHeads).scales;
  layer->outputNorm = norm_at(reader, kernel, d->outputNorm, d->mixing == MIX_DELTA ? d->valueSize : size);
  if (reader->error) return 0;
  int32_t numPanels = (layer->queryLow ? layer->queryLow : layer->query)->numPanels + (layer->key ? layer->key->numPanels : 0);
  int32_t column = (numPanels + (layer->value ? layer->value->numPanels : 0)) * PANEL;
  layer->gateColumn = column;
  if (layer->queryLow) layer->queryColumn = column;
  layer->strengthColumn = layer->gateColumn + (layer->outputGate ? layer->outputGate->numPanels * PANEL : 0);
  layer->decayColumn = layer->strengthColumn + (layer->strength ? layer->strength->numPanels * PANEL : 0);
  if (d->mixing == MIX_ATTENTION) return d->strength != -1 || d->decay != -1 ? fail(reader, "a layer's gates") : 1;
  if (d->numTaps < 1 || d->numTaps > MOST_TAPS || kernel->model.isEncoder) return fail(reader, "a recurrence");
  if (d->mixing == MIX_CONVOLUTION && (size != kernel->model.hiddenSize || d->numKvHeads * d->headSize != size || layer->outputGate)) return fail(reader, "a convolution's sizes");
  layer->convolvedWidth = d->mixing == MIX_CONVOLUTION ? layer->query->numPanels * PANEL : column;
  layer->convolution = table_at(reader, kernel, d->convolution, layer->convolvedWidth);
  if (reader->error) return 0;
  if (!layer->convolution || layer->convolution->format != FORMAT_FLOAT_TABLE || layer->convolution->numOut < d->numTaps)
    return fail(reader, "the table of a convolution");
  layer->state = kernel->stateFloats;
  kernel->stateFloats += (size_t)(d->numTaps - 1) * (size_t)layer->convolvedWidth;
  if (layer->convolvedWidth > kernel->convolvedWidth) kernel->convolvedWidth = layer->convolvedWidth;
  if (!isRecurrent) return 1;
  int32_t ratesWidth = whole(d->numHeads, PANEL);
  layer->rates = table_at(reader, kernel, d->rates, ratesWidth);
  if (reader->error) return 0;
  if (!layer->rates || layer->rates->format != FORMAT_FLOAT_TABLE || layer->rates->numOut != RATE_ROWS || !layer->outputNorm.scales || d->headSize % 4 != 0)
    return fail(reader, "a recurrence");
  if (d->mixing == MIX_SPACE && d->numKvHeads > 1 && size / d->numKvHeads % 16 != 0) return fail(reader, "a recurrence's norm");
  if (ratesWidth > kernel->ratesWidth) kernel->ratesWidth = ratesWidth;
  kernel->stateFloats += (size_t)d->numHeads * (size_t)d->headSize * (size_t)whole(d->valueSize, 16);
  return 1;
}

/** Checks that an earlier layer has keys and values that this one can read. */
static int check_shared_keys(Reader *reader, const Kernel *kernel, const LayerDescription *d, int32_t index) {
  if (d->keysOf == -1) return 1;
  if (d->keysOf < 0 || d->keysOf >= index || d->mixing != MIX_ATTENTION || kernel->model.isEncoder || d->key != -1 || d->value != -1)
    return fail(reader, "the layer whose keys are shared");
  const LayerDescription *from = &kernel->layers[d->keysOf].description;
  if (from->mixing != MIX_ATTENTION || from->keysOf != -1 || from->numKvHeads != d->numKvHeads || from->headSize != d->headSize)
    return fail(reader, "the layer whose keys are shared");
  return 1;
}

/** Sizes of latent attention; all are 0 without it. */
typedef struct {
  int32_t latent, plain, value;
} LatentSizes;

/** Reads the products by head of latent attention. */
static int read_heads(Reader *reader, const Kernel *kernel, const LayerDescription *d, LatentSizes *sizes) {
  const int32_t first = d->firstHead, numHeads = d->numHeads, latent = d->rotary < 0 ? 0 : d->headSize - d->rotarySize;
  if (first == -1) return d->queryLow == -1 ? 1 : fail(reader, "queries of a low rank");
  if (d->mixing != MIX_ATTENTION || d->numKvHeads != 1 || d->keysOf != -1 || latent < 16 || latent % 16 != 0 || d->normsAllHeads || d->value != -1 ||
      d->queryNorm != -1 || d->valueNorm != -1 || d->outputGate != -1 || d->keyNorm == -1 || kernel->model.isEncoder || first < 0 ||
      (int64_t)first + 2 * (int64_t)numHeads > kernel->model.numTensors)
    return fail(reader, "latent attention");
  *sizes = (LatentSizes){latent, kernel->tensors[first].numIn, kernel->tensors[first + numHeads].numOut};
  if (sizes->plain > 4096 || sizes->value > 4096 || sizes->value % 16 != 0) return fail(reader, "heads of latent attention");
  for (int32_t i = first; i < first + numHeads; i++) {
    weights_at(reader, kernel, i, latent, sizes->plain, 1);
    weights_at(reader, kernel, i + numHeads, sizes->value, latent, 1);
  }
  return reader->error == NULL;
}

static int check_layer(Reader *reader, Kernel *kernel, const LayerDescription *d) {
  if (d->numHeads < 1 || d->numHeads > 4096 || d->numKvHeads < 1 || d->numHeads % d->numKvHeads != 0 || d->headSize < 1 || d->headSize > 4096 ||
      d->valueSize < 1 || d->valueSize > 4096)
    return fail(reader, "a layer's heads");
  if (d->mixing < 0 || d->mixing >= NUM_MIXINGS) return fail(reader, "a layer's kind");
  if (d->mixing == MIX_ATTENTION && (d->headSize % 2 != 0 || d->valueSize != d->headSize)) return fail(reader, "a layer's heads");
  const int32_t sets[2] = {d->rotary, d->queryRotary};
  if (d->window < 0 || (d->rotary < 0) != (d->queryRotary < 0)) return fail(reader, "a layer's positions");
  for (int i = 0; i < 2; i++) {
    if (sets[i] < -1 || sets[i] >= kernel->model.numRotaries) return fail(reader, "a layer's positions");
    if (sets[i] < 0) continue;
    Rotary *rotary = &kernel->rotaries[sets[i]];
    if (d->rotarySize < 2 || d->rotarySize > d->headSize || d->rotarySize % 2 != 0) return fail(reader, "a layer's positions");
    if (rotary->size != 0 && rotary->size != d->rotarySize) return fail(reader, "layers of one rotary set that differ");
    rotary->size = d->rotarySize;
  }
  if (d->activation < ACTIVATION_SILU || d->activation > ACTIVATION_CLAMPED) return fail(reader, "a layer's activation");
  if (d->router != -1 && (d->numRouted < 1 || d->numRouted > MOST_ROUTED || d->expertsPerToken < 1 || d->expertsPerToken > MOST_CHOSEN ||
                          d->expertsPerToken > d->numRouted || d->firstExpert == -1))
    return fail(reader, "a mixture's sizes");
  return 1;
}

static int read_layer(Reader *reader, Kernel *kernel, const LayerDescription *d, Layer *layer) {
  const int32_t hidden = kernel->model.hiddenSize, hasKeys = d->keysOf == -1, inputSize = kernel->model.layerInputSize, hasInputs = d->inputGate != -1;
  // Behind a token's embedding, in the first layer of a draft head.
  const int32_t mixedSize = layer == kernel->layers && joins_token(kernel) ? 2 * hidden : hidden;
  if (!check_layer(reader, kernel, d) || !check_shared_keys(reader, kernel, d, (int32_t)(layer - kernel->layers))) return 0;
  if (hasInputs && inputSize == 0) return fail(reader, "inputs of layers");
  int32_t numExperts = d->router == -1 ? kernel->model.numExperts : d->numRouted;
  const Tensor *up = tensor_at(reader, kernel, d->up, d->firstExpert == -1);
  if (reader->error) return 0;
  // Queries of attention have as many heads as its outputs, those of a recurrence as its keys.
  int32_t keySize = d->numKvHeads * d->headSize, querySize = d->mixing == MIX_ATTENTION ? d->numHeads * d->headSize : keySize;
  int32_t valueSize = d->mixing == MIX_ATTENTION ? keySize : d->numHeads * d->valueSize, ffnSize = up ? up->numOut : 0;
  int32_t outputSize = d->numHeads * d->valueSize;
  LatentSizes sizes = {0};
  const Tensor *low = tensor_at(reader, kernel, d->queryLow, 0);
  if (reader->error || !read_heads(reader, kernel, d, &sizes)) return 0;
  const int32_t isLatent = sizes.latent > 0;
  if (isLatent) querySize = d->numHeads * (sizes.plain + d->rotarySize), outputSize = d->numHeads * sizes.value;
  *layer = (Layer){
      .description = *d,
      .mixedSize = mixedSize,
      .attentionNorm = norm_at(reader, kernel, d->attentionNorm, hidden),
      .queryNorm = norm_at(reader, kernel, d->queryNorm, d->normsAllHeads ? querySize : d->headSize),
      .keyNorm = norm_at(reader, kernel, d->keyNorm, isLatent ? sizes.latent : d->normsAllHeads ? keySize : d->headSize),
      .valueNorm = norm_at(reader, kernel, d->mixing == MIX_ATTENTION ? d->valueNorm : -1, d->headSize),
      .attentionOutputNorm = norm_at(reader, kernel, d->attentionOutputNorm, hidden),
      .ffnNorm = norm_at(reader, kernel, d->ffnNorm, hidden),
      .ffnOutputNorm = norm_at(reader, kernel, d->ffnOutputNorm, hidden),
      .expertNorm = norm_at(reader, kernel, d->expertNorm, hidden),
      .sharedOutputNorm = norm_at(reader, kernel, d->sharedOutputNorm, hidden),
      .expertOutputNorm = norm_at(reader, kernel, d->expertOutputNorm, hidden),
      .query = weights_at(reader, kernel, d->query, querySize, low ? low->numOut : mixedSize, 1),
      .queryLow = low ? weights_at(reader, kernel, d->queryLow, low->numOut, mixedSize, 1) : NULL,
      .queryLowNorm = norm_at(reader, kernel, d->queryLowNorm, low ? low->numOut : 0),
      .key = weights_at(reader, kernel, d->key, keySize, mixedSize, hasKeys),
      .value = weights_at(reader, kernel, d->value, valueSize, mixedSize, hasKeys && !isLatent),
      .inputGate = weights_at(reader, kernel, d->inputGate, inputSize, hidden, 0),
      .inputOutput = weights_at(reader, kernel, d->inputOutput, hidden, inputSize, hasInputs),
      .inputOutputNorm = norm_at(reader, kernel, d->inputOutputNorm, hidden),
      .streamScale = norm_at(reader, kernel, d->streamScale, hidden).scales,
      .attentionOutput = weights_at(reader, kernel, d->attentionOutput, hidden, outputSize, 1),
      .gate = up ? weights_at(reader, kernel, d->gate, ffnSize, hidden, 0) : NULL,
      .up = up ? weights_at(reader, kernel, d->up, ffnSize, hidden, 1) : NULL,
      .down = up ? weights_at(reader, kernel, d->down, hidden, ffnSize, 1) : NULL,
      .experts = experts_at(reader, kernel, d->firstExpert, numExperts),
      .numExperts = numExperts,
      .sharedWidth = up ? up->numPanels * PANEL : 0,
      .paddedHead = whole(d->headSize, 16),
      .page = d->mixing != MIX_ATTENTION ? 0 : hasKeys ? kernel->numPaged++ : kernel->layers[d->keysOf].page,
      .roundsHeads = d->mixing == MIX_ATTENTION && (isLatent || d->numHeads / d->numKvHeads * d->headSize % GROUP == 0),
      .heads = isLatent ? &kernel->tensors[d->firstHead] : NULL,
      .latentSize = sizes.latent,
      .plainSize = sizes.plain,
      .outputColumns = isLatent ? whole(sizes.latent, GROUP) : d->headSize,
      .skippedOutputs = isLatent ? d->rotarySize : 0,
  };
  if (reader->error || !read_mixing(reader, kernel, layer)) return 0;
  if (layer->queryLow && !layer->queryLowNorm.scales) return fail(reader, "queries of a low rank");
  if (d->mixing == MIX_ATTENTION && hasKeys) {
    kernel->paged[layer->page] = layer;
    const LayerDescription *first = &kernel->paged[0]->description;
    // Keys of all layers of an encoder have the same place.
    if (kernel->model.isEncoder && (d->numKvHeads != first->numKvHeads || d->headSize != first->headSize))
      return fail(reader, "layers whose key heads differ");
  }
  const int32_t hasOwnRows = d->expertNorm != -1 || d->sharedOutputNorm != -1 || d->expertOutputNorm != -1;
  if (hasOwnRows && (d->router == -1 || !layer->up)) return fail(reader, "norms of a mixture");
  return d->router == -1 || read_mixture(reader, kernel, d, layer);
}

static int allocate_rows(Kernel *kernel, Rows *rows, uint64_t count, int32_t width) {
  rows->width = whole(width, PANEL);
  rows->floats = allocate_block(kernel, count * (size_t)rows->width, 4);
  rows->values = allocate_block(kernel, count * (size_t)rows->width, 1);
  rows->wide = allocate_block(kernel, count * (size_t)rows->width, 2);
  rows->scales = allocate_block(kernel, count * (size_t)(rows->width / GROUP), 4);
  rows->sums = allocate_block(kernel, count * (size_t)(rows->width / GROUP), 4);
  rows->offsets = allocate_block(kernel, count * (size_t)(rows->width / GROUP), 4);
  rows->halfSums = allocate_block(kernel, count * (size_t)(rows->width / GROUP), 4);
  return rows->floats && rows->values && rows->wide && rows->scales && rows->sums && rows->offsets && rows->halfSums;
}

static int allocate_groups(Kernel *kernel, Groups *groups, uint64_t rows) {
  return (groups->rows = allocate_block(kernel, rows, sizeof(int32_t))) && (groups->experts = allocate_block(kernel, rows, sizeof(int32_t))) &&
         (groups->starts = allocate_block(kernel, rows + 1, sizeof(int32_t))) && (groups->tasks = allocate_block(kernel, rows + 1, sizeof(int32_t)));
}

/** Allocates what layers with routers need. */
static int allocate_mixtures(Kernel *kernel) {
  uint64_t rows = (uint64_t)kernel->options.maxRows, pairs = 0, chosen = 0;
  int32_t gatedWidth = 0;
  for (int l = 0; l < kernel->model.numLayers; l++) {
    const Layer *layer = &kernel->layers[l];
    if (!layer->router) continue;
    uint64_t count = (uint64_t)layer->description.expertsPerToken, together = (uint64_t)rows_of_pairs((int)count);
    if (count > chosen) chosen = count;
    if ((together < rows ? together : rows) * count > pairs) pairs = (together < rows ? together : rows) * count;
    if (layer->experts->up.numPanels * PANEL > gatedWidth) gatedWidth = layer->experts->up.numPanels * PANEL;
    // Sigmoids with biases stand behind those without.
    int32_t routerWidth = layer->router->numPanels * PANEL * (layer->routerBias ? 2 : 1);
    if (routerWidth > kernel->routerWidth) kernel->routerWidth = routerWidth;
  }
  if (pairs == 0) return 1;
  return (kernel->routerLogits = allocate_block(kernel, rows * (size_t)kernel->routerWidth, 4)) &&
         (kernel->choices = allocate_block(kernel, rows * chosen, sizeof(int32_t))) &&
         (kernel->chosen = allocate_block(kernel, rows * chosen, sizeof(int32_t))) &&
         (kernel->choiceWeights = allocate_block(kernel, rows * chosen, 4)) && (kernel->sharedWeights = allocate_block(kernel, rows, 4)) && allocate_groups(kernel, &kernel->pairs, pairs) &&
         (kernel->pairPlaces = allocate_block(kernel, pairs, sizeof(int32_t))) &&
         allocate_rows(kernel, &kernel->pairInputs, pairs, kernel->model.hiddenSize) &&
         allocate_rows(kernel, &kernel->pairGated, pairs, gatedWidth) &&
         (kernel->pairOutputs = allocate_block(kernel, pairs * (size_t)kernel->hiddenWidth, 4));
}

static int allocate_loras(Kernel *kernel) {
  uint64_t rows = (uint64_t)kernel->options.maxRows;
  return (kernel->rowLoras = allocate_block(kernel, rows, sizeof(Lora *))) && (kernel->activeLoras = allocate_block(kernel, rows, sizeof(Lora *))) &&
         (kernel->placeLoras = allocate_block(kernel, rows, sizeof(Lora *))) && (kernel->wantedLoras = allocate_block(kernel, rows, sizeof(Lora *))) &&
         (kernel->used = allocate_block(kernel, rows, sizeof(Lora *)));
}

/** Allocates what recurrences need. */
static int allocate_recurrences(Kernel *kernel) {
  uint64_t rows = (uint64_t)kernel->options.maxRows;
  if (kernel->stateFloats == 0) return 1;
  return (kernel->zeros = allocate_block(kernel, (size_t)kernel->convolvedWidth, 4)) &&
         (kernel->convolved = allocate_block(kernel, rows * (size_t)kernel->convolvedWidth, 4)) &&
         (kernel->gains = allocate_block(kernel, rows * 2 * (size_t)kernel->ratesWidth + 1, 4)) &&
         (kernel->recurrenceRooms = allocate_block(kernel, (uint64_t)kernel->options.numThreads * recurrence_floats(kernel), 4));
}

/** Allocates what inputs of layers need. */
static int allocate_inputs(Kernel *kernel) {
  if (!kernel->layerTable) return 1;
  kernel->layerInputsWidth = kernel->layerProjection->numPanels * PANEL;
  return (kernel->layerInputs = allocate_block(kernel, (uint64_t)kernel->options.maxRows * (size_t)kernel->layerInputsWidth, 4)) != NULL;
}

static int allocate_buffers(Kernel *kernel) {
  const KernelOptions *options = &kernel->options;
  uint64_t rows = (uint64_t)options->maxRows, threads = (uint64_t)options->numThreads;
  // A row may be wanted several times, so more logits than rows may be computed together.
  uint64_t inputs = rows < LOGIT_ROWS ? LOGIT_ROWS : rows;
  // No memory is empty, also where all experts are those of mixtures.
  int32_t attendedWidth = 0, byHeadWidth = 0, expertWidth = 0, gatedWidth = 1, queriesWidth = 1, mostHeads = 0, numExperts = kernel->model.numExperts, hasBoth = 0;
  kernel->attendMost = ATTEND_MOST;
  for (int l = 0; l < kernel->model.numLayers; l++) {
    Layer *layer = &kernel->layers[l];
    const LayerDescription *d = &layer->description;
    int32_t projected = layer->decayColumn + (layer->decay ? layer->decay->numPanels * PANEL : 0);
    if (layer->queryLow) projected += layer->query->numPanels * PANEL;
    if (projected > kernel->projectedWidth) kernel->projectedWidth = projected;
    // Gates of inputs take the place of queries.
    int32_t inputs = layer->inputGate ? layer->inputGate->numPanels * PANEL : 0;
    if (inputs > kernel->projectedWidth) kernel->projectedWidth = inputs;
    if (inputs > gatedWidth) gatedWidth = inputs;
    if (layer->attentionOutput->numIn > attendedWidth) attendedWidth = layer->attentionOutput->numIn;
    int32_t gated = layer->sharedWidth + (layer->experts && !layer->router ? layer->experts->up.numPanels * PANEL : 0);
    if (layer->numExperts > numExperts) numExperts = layer->numExperts;
    if (gated > gatedWidth) gatedWidth = gated;
    hasBoth |= layer->up && layer->experts;
    if (layer->expertNorm.scales) expertWidth = kernel->model.hiddenSize;
    if (d->mixing != MIX_ATTENTION) continue;
    if (layer->heads) {
      const int32_t widths[] = {d->numHeads * whole(layer->plainSize, GROUP), layer->attentionOutput->numIn, layer->queryLow ? layer->queryLow->numOut : 0};
      for (int i = 0; i < 3; i++)
        if (widths[i] > byHeadWidth) byHeadWidth = widths[i];
      if (d->numHeads * layer->outputColumns > attendedWidth) attendedWidth = d->numHeads * layer->outputColumns;
    }
    if (d->numHeads * layer->paddedHead > queriesWidth) queriesWidth = d->numHeads * layer->paddedHead;
    if (layer->paddedHead > kernel->maxPaddedHead) kernel->maxPaddedHead = layer->paddedHead;
    if (d->numHeads > mostHeads) mostHeads = d->numHeads;
    if (d->numHeads / d->numKvHeads > kernel->attendMost) kernel->attendMost = d->numHeads / d->numKvHeads;
  }
  for (int i = 0; i < kernel->model.numRotaries; i++) {
    Rotary *rotary = &kernel->rotaries[i];
    rotary->angles = allocate_block(kernel, (uint64_t)options->maxPositions * (uint64_t)rotary->size, 4);
    if (!rotary->angles) return 0;
  }
  kernel->tileRoom = tile_floats(kernel, mostHeads);
  return allocate_inputs(kernel) && (kernel->stream = allocate_block(kernel, rows * (size_t)kernel->hiddenWidth, 4)) &&
         (kernel->update = allocate_block(kernel, rows * (size_t)kernel->hiddenWidth, 4)) &&
         (kernel->routed = allocate_block(kernel, hasBoth ? rows * (size_t)kernel->hiddenWidth : 1, 4)) &&
         (kernel->projected = allocate_block(kernel, rows * (size_t)kernel->projectedWidth, 4)) &&
         allocate_recurrences(kernel) && (kernel->queries = allocate_block(kernel, rows * (size_t)queriesWidth, 4)) &&
         allocate_rows(kernel, &kernel->normed, inputs, joins_token(kernel) ? 2 * kernel->model.hiddenSize : kernel->model.hiddenSize) &&
         (!kernel->tokenNorm.scales || (kernel->tokenRows = allocate_block(kernel, rows * (size_t)kernel->hiddenWidth, 4))) &&
         (!kernel->fusion || allocate_rows(kernel, &kernel->fused, rows, kernel->fusion->numIn)) && allocate_rows(kernel, &kernel->attended, inputs, attendedWidth) &&
         (expertWidth == 0 || allocate_rows(kernel, &kernel->expertInputs, rows, expertWidth)) && (byHeadWidth == 0 || allocate_rows(kernel, &kernel->byHead, inputs, byHeadWidth)) && allocate_rows(kernel, &kernel->gated, inputs, gatedWidth) &&
         (kernel->active = allocate_block(kernel, rows, sizeof(int32_t))) && allocate_groups(kernel, &kernel->all, rows) &&
         allocate_groups(kernel, &kernel->wanted, rows) && allocate_loras(kernel) && allocate_mixtures(kernel) &&
         (!options->streamsExperts || (kernel->filed = allocate_block(kernel, (size_t)kernel->model.numTensors, sizeof(Tensor)))) &&
         (kernel->counts = allocate_block(kernel, (uint64_t)numExperts, sizeof(int32_t))) &&
         (kernel->gates = allocate_block(kernel, threads * 2 * TASK_ROWS * GATE_COLUMNS, 4)) &&
         (kernel->attendRooms = allocate_block(kernel, threads * attend_floats(kernel), 4)) &&
         (kernel->tileResults = allocate_block(kernel, kernel->tileRoom + 1, 4)) &&
         (kernel->logits = allocate_block(kernel, LOGIT_ROWS * (uint64_t)kernel->logitsWidth, 4)) &&
         (kernel->largest = allocate_block(kernel, LOGIT_ROWS * (size_t)(kernel->logitsWidth / LOGIT_BLOCK), 4)) &&
         (kernel->sums = allocate_block(kernel, LOGIT_ROWS * (size_t)(kernel->logitsWidth / LOGIT_BLOCK), 4));
}

/** Reads what is added to embeddings and to scores, and checks what reads of it depend on. */
static int read_encoder(Reader *reader, Kernel *kernel) {
  const ModelDescription *model = &kernel->model;
  int32_t positions = kernel->options.maxPositions, numHeads = kernel->layers[0].description.numHeads;
  kernel->positions = table_at(reader, kernel, model->positions, model->hiddenSize);
  kernel->segments = table_at(reader, kernel, model->segments, model->hiddenSize);
  kernel->distances = tensor_at(reader, kernel, model->distances, 0);
  if (reader->error) return 0;
  if (kernel->positions && (kernel->positions->numOut < positions || model->numExperts > 1)) return fail(reader, "the table of positions");
  if (kernel->segments && (int64_t)kernel->segments->numOut * model->vocabSize > 1 << 28) return fail(reader, "the table of segments");
  if (!kernel->distances) return 1;
  // A page's distances are read as a whole, so a query's reach to the end of the last page.
  if (kernel->distances->format != FORMAT_FLOAT_TABLE || kernel->distances->numOut != numHeads || kernel->distances->numIn % 2 != 0 ||
      kernel->distances->numIn / 2 < whole(positions, PAGE_TOKENS))
    return fail(reader, "the table of distances");
  for (int l = 0; l < model->numLayers; l++)
    if (kernel->layers[l].description.numHeads != numHeads) return fail(reader, "the table of distances");
  return 1;
}

/** Reads what inputs of layers are made of. */
static int read_inputs(Reader *reader, Kernel *kernel) {
  const ModelDescription *model = &kernel->model;
  int32_t width = 0;
  if (model->layerTable == -1) return model->layerInputSize == 0 && model->layerProjection == -1 ? 1 : fail(reader, "inputs of layers");
  if (model->layerInputSize < 16 || model->layerInputSize % 16 != 0 || model->layerInputSize > 1 << 20 || model->isEncoder ||
      __builtin_mul_overflow(model->layerInputSize, model->numLayers, &width) || width > 1 << 20)
    return fail(reader, "inputs of layers");
  kernel->layerTable = tensor_at(reader, kernel, model->layerTable, 1);
  kernel->layerProjection = weights_at(reader, kernel, model->layerProjection, width, model->hiddenSize, 1);
  kernel->layerInputNorm = norm_at(reader, kernel, model->layerInputNorm, model->layerInputSize);
  if (reader->error) return 0;
  if (kernel->layerTable->numOut != model->vocabSize || kernel->layerTable->numIn != width || !kernel->layerInputNorm.scales)
    return fail(reader, "inputs of layers");
  return 1;
}

/** Reads what a draft head has in front of its first layer. */
static int read_fusion(Reader *reader, Kernel *kernel) {
  const ModelDescription *model = &kernel->model;
  kernel->tokenNorm = norm_at(reader, kernel, model->tokenNorm, model->hiddenSize);
  kernel->stateNorm = norm_at(reader, kernel, model->stateNorm, model->hiddenSize);
  kernel->fusion = tensor_at(reader, kernel, model->fusion, 0);
  if (reader->error) return 0;
  if (kernel->stateNorm.scales && (!kernel->tokenNorm.scales || !kernel->fusion || kernel->fusion->numIn != 2 * model->hiddenSize))
    return fail(reader, "a fusion of an embedding and a row");
  if (kernel->tokenNorm.scales && (model->hiddenSize % PANEL != 0 || model->isEncoder)) return fail(reader, "the size of a draft head");
  if (!kernel->fusion) return 1;
  kernel->fusion = weights_at(reader, kernel, model->fusion, model->hiddenSize, kernel->fusion->numIn, 1);
  return reader->error == NULL && (kernel->fusion->numIn > model->hiddenSize || fail(reader, "a fusion's inputs"));
}

static int read_model(Reader *reader, Kernel *kernel) {
  const ModelDescription *model = &kernel->model;
  size_t layersAt = sizeof(ModelDescription), tensorsAt = layersAt + (size_t)model->numLayers * sizeof(LayerDescription);
  if (tensorsAt + (size_t)model->numTensors * sizeof(TensorDescription) > reader->bytes) return fail(reader, "the file's length");
  kernel->tensors = allocate_block(kernel, (size_t)model->numTensors, sizeof(Tensor));
  kernel->layers = allocate_block(kernel, (size_t)model->numLayers, sizeof(Layer));
  kernel->paged = allocate_block(kernel, (size_t)model->numLayers, sizeof(Layer *));
  if (!kernel->tensors || !kernel->layers || !kernel->paged) return fail(reader, "memory");
  for (int i = 0; i < model->numTensors; i++) {
    TensorDescription tensor;
    memcpy(&tensor, reader->file + tensorsAt + (size_t)i * sizeof tensor, sizeof tensor);
    if (!read_tensor(reader, &tensor, &kernel->tensors[i])) return 0;
  }
  if (!read_inputs(reader, kernel) || !read_fusion(reader, kernel)) return 0;
  for (int i = 0; i < model->numLayers; i++) {
    LayerDescription layer;
    memcpy(&layer, reader->file + layersAt + (size_t)i * sizeof layer, sizeof layer);
    if (!read_layer(reader, kernel, &layer, &kernel->layers[i])) return 0;
  }
  place_inputs(kernel);
  kernel->finalNorm = norm_at(reader, kernel, model->finalNorm, model->hiddenSize);
  kernel->head = weights_at(reader, kernel, model->head, model->numLogits, model->hiddenSize, 0);
  if (!kernel->head && model->numLogits != model->hiddenSize) return fail(reader, "the size of states");
  kernel->embedding = tensor_at(reader, kernel, model->embedding, 1);
  if (!kernel->embedding || kernel->embedding->numOut != model->vocabSize || kernel->embedding->numIn != model->hiddenSize)
    return fail(reader, "the shape of the embedding");
  if (!read_encoder(reader, kernel)) return 0;
  for (int i = 0; i < model->numRotaries; i++)
    if (kernel->rotaries[i].size == 0) return fail(reader, "a rotary set that no layer has");
  kernel->hiddenWidth = whole(model->hiddenSize, PANEL);
  kernel->logitsWidth = whole(model->numLogits, PANEL);
  return reader->error == NULL;
}

static int check_sizes(Reader *reader, const ModelDescription *model, const KernelOptions *options) {
  if (model->magic != KERNEL_MAGIC || model->version != KERNEL_VERSION) return fail(reader, "the file's version");
  if (model->numLayers < 1 || model->numLayers > 4096 || model->numTensors < 1 || model->numTensors > 1 << 20 || model->vocabSize < 1 ||
      model->hiddenSize < 1 || model->hiddenSize > 1 << 20 || model->numRotaries < 0 || model->numRotaries > MOST_ROTARIES ||
      model->numExperts < 1 || model->numExperts > 1 << 20 || model->numLogits < 1)
    return fail(reader, "the model's sizes");
  if (options->numThreads < 1 || options->numThreads > TEAM_MOST_THREADS || options->maxRows < 1 ||
      options->maxRows > 1 << 20 || options->maxPositions < 1 || options->maxPositions > 1 << 28)
    return fail(reader, "the kernel's options");
  return 1;
}

Kernel *kernel_open(const void *file, size_t bytes, const KernelOptions *options, const Loops *loops, const char **error) {
  Reader reader = {.file = file, .bytes = bytes};
  ModelDescription model;
  if (bytes < sizeof model) {
    *error = "the file's length";
    return NULL;
  }
  memcpy(&model, file, sizeof model);
  if (!check_sizes(&reader, &model, options)) {
    *error = reader.error;
    return NULL;
  }
  Kernel *kernel = platform_allocate(sizeof *kernel);
  if (!kernel) {
    *error = "memory";
    return NULL;
  }
  *kernel = (Kernel){.model = model, .options = *options, .loops = loops};
  if (!read_model(&reader, kernel)) *error = reader.error;
  else if (!allocate_buffers(kernel)) *error = "memory";
  else if (options->streamsExperts && !stream_experts(kernel)) *error = "shared weights among those of experts";
  else if (team_start(&kernel->team, options->numThreads) != 0) *error = "threads";
  else {
    for (int i = 0; i < model.numTensors; i++)
      if (kernel->tensors[i].format > FORMAT_FLOAT && !reads_floats(kernel->tensors[i].format)) kernel->rounds = 1;
    return kernel;
  }
  kernel->team.numThreads = 1;
  kernel_close(kernel);
  return NULL;
}

const char *kernel_set_rotary(Kernel *kernel, int32_t set, int32_t position, const float *angles, size_t length) {
  if (set < 0 || set >= kernel->model.numRotaries) return "a set of angles";
  const Rotary *rotary = &kernel->rotaries[set];
  size_t size = (size_t)rotary->size;
  if (position < 0 || length % size != 0 || (size_t)position + length / size > (size_t)kernel->options.maxPositions) return "a position";
  memcpy(rotary->angles + (size_t)position * size, angles, length * 4);
  return NULL;
}

const char *kernel_tap(Kernel *kernel, const int32_t *layers, size_t count) {
  if (kernel->taps) return "layers once";
  if (count == 0 || count > (size_t)kernel->model.numLayers) return "some of the layers";
  for (size_t i = 0; i < count; i++)
    if (layers[i] <= (i == 0 ? 0 : layers[i - 1]) || layers[i] > kernel->model.numLayers) return "layers in rising order";
  kernel->taps = allocate_block(kernel, (uint64_t)kernel->options.maxRows * count * (size_t)kernel->model.hiddenSize, 4);
  if (!kernel->taps) return "memory";
  kernel->tapsEnd = layers[count - 1] == kernel->model.numLayers;
  for (size_t i = 0; i < count - (size_t)kernel->tapsEnd; i++) kernel->layers[layers[i]].tap = (int32_t)i + 1;
  kernel->numTaps = (int32_t)count;
  kernel->lastTap = layers[count - 1] + 1;
  // No step that ran before kept them, and none that has begun.
  kernel->toLayer = 0;
  kernel->step = NULL;
  return NULL;
}

Team *kernel_team(Kernel *kernel) { return &kernel->team; }

void kernel_lend(Kernel *kernel, Lender lender) { kernel->lender = lender; }

void kernel_close(Kernel *kernel) {
  team_end(&kernel->team);
  close_loras(kernel);
  platform_free(kernel->request);
  for (int i = 0; i < kernel->numBlocks; i++) platform_free(kernel->blocks[i]);
  platform_free(kernel);
}
