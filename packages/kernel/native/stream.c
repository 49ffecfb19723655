// The residual stream. Rows begin as embeddings, blocks add to them, norms read them.

#include "blocks.h"
#include "memory.h"
#include "numbers.h"
#include "phases.h"

/** Returns a byte of a group's line: inputs are by four. */
static int byte_at(const uint8_t *group, int line, int column, int input) { return group[LINE_BYTES * line + 4 * column + input % 4]; }

/** Returns the code of input `input` of a group. */
static int code_at(BlockType t, const uint8_t *more, int column, int input) {
  const uint8_t *group = more + t.moreBits * LINE_BYTES;
  int k = input / 4, code = 0;
  if (t.bits == 8) return byte_at(group, k, column, input);
  if (t.bits == 4) code = byte_at(group, k % 4, column, input) >> (k < 4 ? 0 : 4) & 15;
  if (t.bits == 2) code = byte_at(group, k / 4, column, input) >> 2 * (k % 4) & 3;
  if (t.moreBits == 1) code |= (byte_at(more, 0, column, input) >> k & 1) << t.bits;
  if (t.moreBits == 2) code |= (byte_at(more, k / 4, column, input) >> 2 * (k % 4) & 3) << 4;
  return t.codes == CODES_PLAIN ? code : BLOCK_CODES[t.codes][code];
}

/** Reads a group of weights in blocks. */
static void read_blocks(BlockType t, const uint8_t *panel, int column, int group, float *values) {
  const uint8_t *factors, *more = group_at(t, panel, group, &factors);
  const uint16_t *factor = (const uint16_t *)factors + column;
  for (int from = 0; from < GROUP; from += t.block) {
    const uint8_t *scales = more + plane_bytes(t) + (from / t.block * PANEL + column) * scale_size(t);
    const uint8_t *minimums = t.scale == SCALE_NIBBLE ? scales : scales + scale_bytes(t);
    float scale = scale_value(t, scales, has_factors(t) ? float_of(*factor) : 1, 0);
    float minimum = t.hasMinimums ? scale_value(t, minimums, has_factors(t) ? float_of(factor[PANEL]) : 1, 1) : 0;
    for (int i = from; i < from + t.block; i++) {
      float weight = scale * (float)(code_at(t, more, column, i) - t.zero);
      values[i] = t.hasMinimums ? weight + minimum : weight;
    }
  }
}

/** Reads `count` inputs of an embedding, at most a group, from input `from` on, where a group begins. */
static void read_embedding(const Tensor *t, int32_t token, int from, int count, float *values) {
  int column = token % PANEL;
  size_t row = (size_t)token * (size_t)t->numIn + (size_t)from, place = (size_t)from * PANEL + (size_t)column;
  const uint8_t *panel = t->weights + (size_t)(token / PANEL) * t->panelBytes;
  const float *floats = (const float *)t->weights + row;
  switch (t->format) {
    case FORMAT_FLOAT_TABLE:
      for (int i = 0; i < count; i++) values[i] = floats[i];
      break;
    case FORMAT_HALF_TABLE:
      for (int i = 0; i < count; i++) values[i] = float_of(((const uint16_t *)t->weights)[row + (size_t)i]);
      break;
    case FORMAT_FLOAT:
      for (int i = 0; i < count; i++) values[i] = ((const float *)panel)[place + (size_t)(i * PANEL)];
      break;
    case FORMAT_HALF:
      for (int i = 0; i < count; i++) values[i] = float_of(((const uint16_t *)panel)[place + (size_t)(i * PANEL)]);
      break;
    case FORMAT_BFLOAT:
      for (int i = 0; i < count; i++) values[i] = bfloat_of(((const uint16_t *)panel)[place + (size_t)(i * PANEL)]);
      break;
    case FORMAT_INT8:
      for (int i = 0; i < count; i++) values[i] = (float)(byte_at(panel, (from + i) / 4, column, i) - 128) * t->scales[token];
      break;
    default: read_blocks(BLOCK_TYPES[t->format - FORMAT_BLOCKS], panel, column, from / GROUP, values);
  }
}

/** Reads what `look_up` does, without padding. */
static void look_up_row(const Kernel *kernel, int32_t token, int32_t position, float *out) {
  int32_t word = token % kernel->model.vocabSize, segment = token / kernel->model.vocabSize, size = kernel->embedding->numIn;
  float values[GROUP];
  for (int from = 0; from < size; from += GROUP, out += GROUP) {
    int count = least(GROUP, size - from);
    read_embedding(kernel->embedding, word, from, count, values);
    for (int i = 0; i < count; i++) out[i] = values[i] * kernel->model.embeddingScale;
    // In the order in which transformers adds them.
    if (kernel->segments) read_embedding(kernel->segments, segment, from, count, values);
    for (int i = 0; kernel->segments && i < count; i++) out[i] += values[i];
    if (kernel->positions) read_embedding(kernel->positions, position, from, count, values);
    for (int i = 0; kernel->positions && i < count; i++) out[i] += values[i];
  }
}

void look_up(const Kernel *kernel, int32_t token, int32_t position, float *out) {
  // Padding is NaN behind a row of NaN.
  memset(out + kernel->embedding->numIn, 0, (size_t)(kernel->hiddenWidth - kernel->embedding->numIn) * 4);
  look_up_row(kernel, token, position, out);
}

const char *kernel_read_embeddings(const Kernel *kernel, const int32_t *tokens, size_t count, float *rows, size_t length) {
  size_t hidden = (size_t)kernel->model.hiddenSize;
  if (kernel->segments || kernel->positions) return "embeddings of tokens alone";
  if (count > (size_t)1 << 20 || length != count * hidden) return "room for the rows";
  for (size_t i = 0; i < count; i++)
    if (tokens[i] < 0 || tokens[i] >= kernel->model.vocabSize) return "a token";
  for (size_t i = 0; i < count; i++) look_up_row(kernel, tokens[i], 0, rows + i * hidden);
  return NULL;
}

void look_up_inputs(const Kernel *kernel, int32_t token, float *inputs) {
  const int32_t size = kernel->model.layerInputSize;
  const float epsilon = kernel->model.normEpsilon * (float)kernel->model.hiddenSize;
  float values[GROUP];
  for (int32_t l = 0; l < kernel->model.numLayers; l++) kernel->loops->norm(inputs + l * size, kernel->layerInputNorm, epsilon, size, size, inputs + l * size);
  for (int from = 0; from < kernel->layerTable->numIn; from += GROUP) {
    int count = least(GROUP, kernel->layerTable->numIn - from);
    read_embedding(kernel->layerTable, token, from, count, values);
    for (int i = 0; i < count; i++) inputs[from + i] += values[i] * kernel->model.layerTableScale;
  }
}

void add_update(Kernel *kernel, int streamRow, int row, Norm outputNorm, float scale) {
  float *stream = kernel->stream + (size_t)streamRow * kernel->hiddenWidth, *update = kernel->update + (size_t)row * kernel->hiddenWidth;
  if (outputNorm.scales)
    kernel->loops->norm(update, outputNorm, kernel->model.normEpsilon, kernel->model.hiddenSize, kernel->hiddenWidth, update);
  kernel->loops->add_scaled(stream, update, scale, kernel->hiddenWidth);
}

void join_updates(Kernel *kernel, const Layer *layer, int row) {
  if (!layer->up || !layer->experts) return;
  const int32_t size = kernel->model.hiddenSize, width = kernel->hiddenWidth;
  const float epsilon = kernel->model.normEpsilon;
  float *update = kernel->update + (size_t)row * (size_t)width, *routed = kernel->routed + (size_t)row * (size_t)width;
  for (int32_t i = 0; layer->gatesShared && i < width; i++) update[i] *= kernel->sharedWeights[row];
  if (layer->sharedOutputNorm.scales) kernel->loops->norm(update, layer->sharedOutputNorm, epsilon, size, width, update);
  if (layer->expertOutputNorm.scales) kernel->loops->norm(routed, layer->expertOutputNorm, epsilon, size, width, routed);
  kernel->loops->add_scaled(update, routed, 1, width);
}

void norm_into(Kernel *kernel, const Rows *into, int streamRow, int row, Norm norm) {
  const float *stream = kernel->stream + (size_t)streamRow * kernel->hiddenWidth;
  float *inputs = into->floats + (size_t)row * into->width;
  if (norm.scales) kernel->loops->norm(stream, norm, kernel->model.normEpsilon, kernel->model.hiddenSize, kernel->hiddenWidth, inputs);
  else memcpy(inputs, stream, (size_t)kernel->hiddenWidth * 4);
  if (kernel->rounds) kernel->loops->round_row(into, row, 0, whole(kernel->model.hiddenSize, GROUP));
}

void norm_row(Kernel *kernel, int streamRow, int row, Norm norm, int replaces) {
  norm_into(kernel, &kernel->normed, streamRow, row, norm);
  if (!replaces) return;
  memcpy(kernel->stream + (size_t)streamRow * kernel->hiddenWidth, kernel->normed.floats + (size_t)row * kernel->normed.width, (size_t)kernel->hiddenWidth * 4);
}

void norm_with_token(Kernel *kernel, Rows *into, int row, Norm norm) {
  const int32_t size = kernel->model.hiddenSize;
  const float *stream = kernel->stream + (size_t)row * (size_t)size;
  float *embedding = kernel->tokenRows + (size_t)row * (size_t)size, *inputs = into->floats + (size_t)row * (size_t)into->width;
  if (!kernel->hasStream) look_up(kernel, kernel->step->tokens[row], 0, embedding);
  kernel->loops->norm(embedding, kernel->tokenNorm, kernel->model.normEpsilon, size, size, inputs);
  if (norm.scales) kernel->loops->norm(stream, norm, kernel->model.normEpsilon, size, size, inputs + size);
  else memcpy(inputs + size, stream, (size_t)size * 4);
  if (kernel->rounds) kernel->loops->round_row(into, row, 0, 2 * size);
}
