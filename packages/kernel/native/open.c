// Opens a packed file: every size and offset is checked before anything is read through it.

#include "memory.h"
#include "phases.h"
#include "platform.h"

typedef struct {
  const uint8_t *file;
  size_t bytes;
  const char *error;
} Reader;

static int32_t whole(int32_t size, int32_t unit) { return (size + unit - 1) / unit * unit; }

static int fail(Reader *reader, const char *error) {
  if (!reader->error) reader->error = error;
  return 0;
}

/** The bytes at an offset in units of 64, or NULL where they are not all in the file. */
static const uint8_t *bytes_at(Reader *reader, int32_t offset, uint64_t bytes) {
  // Sizes are counted in 64 bits, which those of WebAssembly's 32 would leave.
  uint64_t from = (uint64_t)(uint32_t)offset * 64;
  if (offset < 0 || from > reader->bytes || bytes > reader->bytes - from) {
    fail(reader, "a tensor leaves the file");
    return NULL;
  }
  return reader->file + from;
}

static int read_tensor(Reader *reader, const TensorDescription *from, Tensor *tensor) {
  enum { MOST_SIZE = 1 << 24 };
  if (from->numOut < 1 || from->numOut > MOST_SIZE || from->numIn < 1 || from->numIn > MOST_SIZE) return fail(reader, "a tensor's shape");
  if (from->format < FORMAT_FLOAT_TABLE || from->format > FORMAT_INT4_BLOCKS) return fail(reader, "a tensor's format");
  int isBlocks = from->format == FORMAT_INT8_BLOCKS || from->format == FORMAT_INT4_BLOCKS;
  if (isBlocks && from->block != 16 && from->block != 32) return fail(reader, "a tensor's block");
  *tensor = (Tensor){
      .format = (Format)from->format,
      .numOut = from->numOut,
      .numIn = from->numIn,
      .numPanels = whole(from->numOut, PANEL) / PANEL,
      .numGroups = whole(from->numIn, GROUP) / GROUP,
      .block = isBlocks ? from->block : GROUP,
      .hasMinimums = from->hasMinimums != 0,
  };
  size_t blockBytes = isBlocks ? (size_t)(GROUP / tensor->block) * PANEL * 4 : 0;
  uint64_t panelBytes = 0, total = 0;
  switch (tensor->format) {
    case FORMAT_FLOAT_TABLE: total = (uint64_t)from->numOut * (uint64_t)from->numIn * 4; break;
    case FORMAT_HALF_TABLE: total = (uint64_t)from->numOut * (uint64_t)from->numIn * 2; break;
    case FORMAT_FLOAT: panelBytes = (uint64_t)from->numIn * PANEL * 4; break;
    case FORMAT_INT8: tensor->groupBytes = GROUP * PANEL; break;
    case FORMAT_INT8_BLOCKS: tensor->groupBytes = GROUP * PANEL + blockBytes; break;
    case FORMAT_INT4_BLOCKS: tensor->groupBytes = GROUP / 2 * PANEL + blockBytes * (tensor->hasMinimums ? 2 : 1); break;
  }
  if (tensor->groupBytes > 0) panelBytes = (uint64_t)tensor->numGroups * tensor->groupBytes;
  if (panelBytes > 0) total = (uint64_t)tensor->numPanels * panelBytes;
  tensor->panelBytes = (size_t)panelBytes;
  tensor->weights = bytes_at(reader, from->weights, total);
  size_t outputBytes = (size_t)tensor->numPanels * PANEL * 4;
  if (tensor->format == FORMAT_INT8) tensor->scales = (const float *)bytes_at(reader, from->scales, outputBytes);
  if (from->bias >= 0) tensor->bias = (const float *)bytes_at(reader, from->bias, outputBytes);
  return reader->error == NULL;
}

/** A tensor of the model; NULL for -1, where `isNeeded` does not forbid it. */
static const Tensor *tensor_at(Reader *reader, const Kernel *kernel, int32_t index, int isNeeded) {
  if (index == -1 && !isNeeded) return NULL;
  if (index < 0 || index >= kernel->model.numTensors) {
    fail(reader, "a tensor's index");
    return NULL;
  }
  return &kernel->tensors[index];
}

static const Tensor *weights_at(Reader *reader, const Kernel *kernel, int32_t index, int32_t numOut, int32_t numIn, int isNeeded) {
  const Tensor *tensor = tensor_at(reader, kernel, index, isNeeded);
  if (!tensor) return NULL;
  if (tensor->format < FORMAT_FLOAT || tensor->numOut != numOut || tensor->numIn != numIn) {
    fail(reader, "the shape of a product's weights");
    return NULL;
  }
  return tensor;
}

/** Scales of a norm, padded to whole groups: a table of one row. */
static const float *norm_at(Reader *reader, const Kernel *kernel, int32_t index, int32_t size) {
  const Tensor *tensor = tensor_at(reader, kernel, index, 0);
  if (!tensor) return NULL;
  if (tensor->format != FORMAT_FLOAT_TABLE || tensor->numOut != 1 || tensor->numIn != whole(size, PANEL)) {
    fail(reader, "the shape of a norm");
    return NULL;
  }
  return (const float *)tensor->weights;
}

static void *allocate(Kernel *kernel, uint64_t count, size_t bytes) {
  if (kernel->numBlocks == MOST_BLOCKS || (bytes > 0 && count > SIZE_MAX / bytes)) return NULL;
  void *block = platform_allocate((size_t)count * bytes);
  if (block) kernel->blocks[kernel->numBlocks++] = block;
  return block;
}

static int read_layer(Reader *reader, Kernel *kernel, const LayerDescription *d, Layer *layer) {
  const int32_t hidden = kernel->model.hiddenSize;
  if (d->numHeads < 1 || d->numHeads > 4096 || d->numKvHeads < 1 || d->numHeads % d->numKvHeads != 0 || d->headSize < 2 ||
      d->headSize > 4096 || d->headSize % 2 != 0)
    return fail(reader, "a layer's heads");
  if (d->rotary < -1 || d->rotary >= kernel->model.numRotaries || d->window < 0) return fail(reader, "a layer's positions");
  if (d->rotary >= 0) {
    Rotary *rotary = &kernel->rotaries[d->rotary];
    if (d->rotarySize < 2 || d->rotarySize > d->headSize || d->rotarySize % 2 != 0) return fail(reader, "a layer's positions");
    if (rotary->size != 0 && rotary->size != d->rotarySize) return fail(reader, "layers of one rotary set that differ");
    rotary->size = d->rotarySize;
  }
  if (d->activation != ACTIVATION_SILU && d->activation != ACTIVATION_GELU_TANH) return fail(reader, "a layer's activation");
  const Tensor *up = tensor_at(reader, kernel, d->up, 1);
  if (!up) return 0;
  int32_t querySize = d->numHeads * d->headSize, keySize = d->numKvHeads * d->headSize, ffnSize = up->numOut;
  *layer = (Layer){
      .description = *d,
      .attentionNorm = norm_at(reader, kernel, d->attentionNorm, hidden),
      .queryNorm = norm_at(reader, kernel, d->queryNorm, d->normsAllHeads ? querySize : d->headSize),
      .keyNorm = norm_at(reader, kernel, d->keyNorm, d->normsAllHeads ? keySize : d->headSize),
      .attentionOutputNorm = norm_at(reader, kernel, d->attentionOutputNorm, hidden),
      .ffnNorm = norm_at(reader, kernel, d->ffnNorm, hidden),
      .ffnOutputNorm = norm_at(reader, kernel, d->ffnOutputNorm, hidden),
      .query = weights_at(reader, kernel, d->query, querySize, hidden, 1),
      .key = weights_at(reader, kernel, d->key, keySize, hidden, 1),
      .value = weights_at(reader, kernel, d->value, keySize, hidden, 1),
      .attentionOutput = weights_at(reader, kernel, d->attentionOutput, hidden, querySize, 1),
      .gate = weights_at(reader, kernel, d->gate, ffnSize, hidden, 0),
      .up = weights_at(reader, kernel, d->up, ffnSize, hidden, 1),
      .down = weights_at(reader, kernel, d->down, hidden, ffnSize, 1),
      .paddedHead = whole(d->headSize, 16),
      .roundsHeads = d->numHeads / d->numKvHeads * d->headSize % GROUP == 0,
  };
  const LayerDescription *first = &kernel->layers[0].description;
  if (d->numKvHeads != first->numKvHeads || d->headSize != first->headSize) return fail(reader, "layers whose key heads differ");
  return reader->error == NULL;
}

static int allocate_rows(Kernel *kernel, Rows *rows, int32_t width) {
  // A row may be wanted several times, so that more logits than rows are computed together.
  uint64_t count = (uint64_t)(kernel->options.maxRows < LOGIT_ROWS ? LOGIT_ROWS : kernel->options.maxRows);
  rows->width = whole(width, PANEL);
  rows->floats = allocate(kernel, count * (size_t)rows->width, 4);
  rows->values = allocate(kernel, count * (size_t)rows->width, 1);
  rows->wide = allocate(kernel, count * (size_t)rows->width, 2);
  rows->scales = allocate(kernel, count * (size_t)(rows->width / GROUP), 4);
  rows->sums = allocate(kernel, count * (size_t)(rows->width / GROUP), 4);
  rows->offsets = allocate(kernel, count * (size_t)(rows->width / GROUP), 4);
  rows->halfSums = allocate(kernel, count * (size_t)(rows->width / GROUP), 4);
  return rows->floats && rows->values && rows->wide && rows->scales && rows->sums && rows->offsets && rows->halfSums;
}

static int allocate_buffers(Kernel *kernel) {
  const KernelOptions *options = &kernel->options;
  uint64_t rows = (uint64_t)options->maxRows, threads = (uint64_t)options->numThreads;
  int32_t attendedWidth = 0, gatedWidth = 0, queriesWidth = 0;
  for (int l = 0; l < kernel->model.numLayers; l++) {
    Layer *layer = &kernel->layers[l];
    const LayerDescription *d = &layer->description;
    int32_t projected = (layer->query->numPanels + layer->key->numPanels + layer->value->numPanels) * PANEL;
    if (projected > kernel->projectedWidth) kernel->projectedWidth = projected;
    if (layer->attentionOutput->numIn > attendedWidth) attendedWidth = layer->attentionOutput->numIn;
    if (layer->up->numOut > gatedWidth) gatedWidth = layer->up->numOut;
    if (d->numHeads * layer->paddedHead > queriesWidth) queriesWidth = d->numHeads * layer->paddedHead;
    if (layer->paddedHead > kernel->maxPaddedHead) kernel->maxPaddedHead = layer->paddedHead;
  }
  for (int i = 0; i < kernel->model.numRotaries; i++) {
    Rotary *rotary = &kernel->rotaries[i];
    rotary->angles = allocate(kernel, (uint64_t)options->maxPositions * (uint64_t)rotary->size, 4);
    if (!rotary->angles) return 0;
  }
  kernel->scoresStride = whole(options->maxPositions, PAGE_TOKENS);
  return (kernel->stream = allocate(kernel, rows * (size_t)kernel->hiddenWidth, 4)) &&
         (kernel->update = allocate(kernel, rows * (size_t)kernel->hiddenWidth, 4)) &&
         (kernel->projected = allocate(kernel, rows * (size_t)kernel->projectedWidth, 4)) &&
         (kernel->queries = allocate(kernel, rows * (size_t)queriesWidth, 4)) &&
         allocate_rows(kernel, &kernel->normed, kernel->model.hiddenSize) && allocate_rows(kernel, &kernel->attended, attendedWidth) &&
         allocate_rows(kernel, &kernel->gated, gatedWidth) &&
         (kernel->active = allocate(kernel, rows, sizeof(int32_t))) &&
         (kernel->gates = allocate(kernel, threads * 2 * TASK_ROWS * GATE_COLUMNS, 4)) &&
         (kernel->scores = allocate(kernel, threads * ATTEND_MOST * (size_t)kernel->scoresStride, 4)) &&
         (kernel->outputs = allocate(kernel, threads * ATTEND_MOST * (size_t)kernel->maxPaddedHead, 4)) &&
         (kernel->logits = allocate(kernel, LOGIT_ROWS * (uint64_t)kernel->vocabWidth, 4)) &&
         (kernel->largest = allocate(kernel, LOGIT_ROWS * (size_t)(kernel->vocabWidth / LOGIT_BLOCK), 4)) &&
         (kernel->sums = allocate(kernel, LOGIT_ROWS * (size_t)(kernel->vocabWidth / LOGIT_BLOCK), 4));
}

static int read_model(Reader *reader, Kernel *kernel) {
  const ModelDescription *model = &kernel->model;
  size_t layersAt = sizeof(ModelDescription), tensorsAt = layersAt + (size_t)model->numLayers * sizeof(LayerDescription);
  if (tensorsAt + (size_t)model->numTensors * sizeof(TensorDescription) > reader->bytes) return fail(reader, "the file's length");
  kernel->tensors = allocate(kernel, (size_t)model->numTensors, sizeof(Tensor));
  kernel->layers = allocate(kernel, (size_t)model->numLayers, sizeof(Layer));
  if (!kernel->tensors || !kernel->layers) return fail(reader, "memory");
  for (int i = 0; i < model->numTensors; i++) {
    TensorDescription tensor;
    memcpy(&tensor, reader->file + tensorsAt + (size_t)i * sizeof tensor, sizeof tensor);
    if (!read_tensor(reader, &tensor, &kernel->tensors[i])) return 0;
  }
  for (int i = 0; i < model->numLayers; i++) {
    LayerDescription layer;
    memcpy(&layer, reader->file + layersAt + (size_t)i * sizeof layer, sizeof layer);
    if (!read_layer(reader, kernel, &layer, &kernel->layers[i])) return 0;
  }
  place_inputs(kernel);
  kernel->finalNorm = norm_at(reader, kernel, model->finalNorm, model->hiddenSize);
  kernel->head = weights_at(reader, kernel, model->head, model->vocabSize, model->hiddenSize, 1);
  kernel->embedding = tensor_at(reader, kernel, model->embedding, 1);
  if (!kernel->embedding || kernel->embedding->numOut != model->vocabSize || kernel->embedding->numIn != model->hiddenSize)
    return fail(reader, "the shape of the embedding");
  for (int i = 0; i < model->numRotaries; i++)
    if (kernel->rotaries[i].size == 0) return fail(reader, "a rotary set that no layer has");
  kernel->hiddenWidth = whole(model->hiddenSize, PANEL);
  kernel->vocabWidth = whole(model->vocabSize, PANEL);
  return reader->error == NULL;
}

static int check_sizes(Reader *reader, const ModelDescription *model, const KernelOptions *options) {
  if (model->magic != KERNEL_MAGIC || model->version != KERNEL_VERSION) return fail(reader, "the file's version");
  if (model->numLayers < 1 || model->numLayers > 4096 || model->numTensors < 1 || model->numTensors > 1 << 20 || model->vocabSize < 1 ||
      model->hiddenSize < 1 || model->hiddenSize > 1 << 20 || model->numRotaries < 0 || model->numRotaries > MOST_ROTARIES)
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
  else if (team_start(&kernel->team, options->numThreads) != 0) *error = "threads";
  else {
    for (int i = 0; i < model.numTensors; i++)
      if (kernel->tensors[i].format > FORMAT_FLOAT) kernel->rounds = 1;
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

int kernel_open_pages(const Kernel *kernel, int32_t numPages, int32_t isHalf, Pages *pages) {
  const Layer *layer = &kernel->layers[0];
  *pages = (Pages){.numPages = numPages, .numLayers = kernel->model.numLayers, .isHalf = isHalf != 0};
  pages->headPageBytes = (size_t)layer->paddedHead * PAGE_TOKENS * 2 * (isHalf ? 2 : 4);
  pages->pageBytes = pages->headPageBytes * (size_t)layer->description.numKvHeads;
  uint64_t layerPages = (uint64_t)kernel->model.numLayers * (uint64_t)numPages;
  if (numPages < 1 || layerPages > SIZE_MAX / pages->pageBytes) return -1;
  pages->memory = platform_allocate((size_t)layerPages * pages->pageBytes);
  return pages->memory ? 0 : -1;
}

void kernel_close_pages(Pages *pages) {
  platform_free(pages->memory);
  pages->memory = NULL;
}

Team *kernel_team(Kernel *kernel) { return &kernel->team; }

void kernel_close(Kernel *kernel) {
  team_end(&kernel->team);
  for (int i = 0; i < kernel->numBlocks; i++) platform_free(kernel->blocks[i]);
  platform_free(kernel);
}
