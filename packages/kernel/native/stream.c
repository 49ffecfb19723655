// The residual stream. Rows begin as embeddings, blocks add to them, norms read them.

#include "memory.h"
#include "numbers.h"
#include "phases.h"

/** Returns a weight of FORMAT_INT8 or FORMAT_INT8_BLOCKS, from its panel's group. */
static float byte_weight(const uint8_t *group, int column, int input) {
  return (float)(group[input / 4 * 4 * PANEL + column * 4 + input % 4] - 128);
}

static float nibble_weight(const Tensor *t, const uint8_t *group, int column, int input) {
  const float *scales = (const float *)(group + GROUP / 2 * PANEL), *minimums = scales + GROUP / t->block * PANEL;
  int byte = group[input % 16 / 4 * 4 * PANEL + column * 4 + input % 4], nibble = input < 16 ? byte & 15 : byte >> 4;
  int at = input / t->block * PANEL + column;
  return t->hasMinimums ? scales[at] * (float)nibble + minimums[at] : scales[at] * (float)(nibble - 8);
}

/** Returns input `i` of an embedding. */
static float embedded(const Tensor *t, int32_t token, int i) {
  int column = token % PANEL, input = i % GROUP;
  const uint8_t *panel = t->weights + (size_t)(token / PANEL) * t->panelBytes, *group = panel + (size_t)(i / GROUP) * t->groupBytes;
  switch (t->format) {
    case FORMAT_FLOAT_TABLE: return ((const float *)t->weights)[(size_t)token * t->numIn + i];
    case FORMAT_HALF_TABLE: return float_of(((const uint16_t *)t->weights)[(size_t)token * t->numIn + i]);
    case FORMAT_FLOAT: return ((const float *)panel)[(size_t)i * PANEL + column];
    case FORMAT_INT8: return byte_weight(group, column, input) * t->scales[token];
    case FORMAT_INT8_BLOCKS: return byte_weight(group, column, input) * ((const float *)(group + GROUP * PANEL))[input / t->block * PANEL + column];
    case FORMAT_INT4_BLOCKS: return nibble_weight(t, group, column, input);
    case FORMAT_ROUTER: break;
  }
  return 0;
}

void look_up(const Kernel *kernel, int32_t token, float *out) {
  for (int i = 0; i < kernel->embedding->numIn; i++) out[i] = embedded(kernel->embedding, token, i) * kernel->model.embeddingScale;
}

void add_update(Kernel *kernel, int streamRow, int row, const float *outputNorm, float scale) {
  float *stream = kernel->stream + (size_t)streamRow * kernel->hiddenWidth, *update = kernel->update + (size_t)row * kernel->hiddenWidth;
  if (outputNorm)
    kernel->loops->norm(update, outputNorm, kernel->model.normEpsilon, kernel->model.hiddenSize, kernel->hiddenWidth, update);
  kernel->loops->add_scaled(stream, update, scale, kernel->hiddenWidth);
}

void join_updates(Kernel *kernel, const Layer *layer, int row) {
  if (!layer->up || !layer->experts) return;
  size_t at = (size_t)row * kernel->hiddenWidth;
  kernel->loops->add_scaled(kernel->update + at, kernel->routed + at, 1, kernel->hiddenWidth);
}

void norm_row(Kernel *kernel, int streamRow, int row, const float *scales) {
  const float *stream = kernel->stream + (size_t)streamRow * kernel->hiddenWidth;
  float *inputs = kernel->normed.floats + (size_t)row * kernel->normed.width;
  if (scales) kernel->loops->norm(stream, scales, kernel->model.normEpsilon, kernel->model.hiddenSize, kernel->hiddenWidth, inputs);
  else memcpy(inputs, stream, (size_t)kernel->hiddenWidth * 4);
  if (kernel->rounds) kernel->loops->round_row(&kernel->normed, row, 0, (kernel->model.hiddenSize + GROUP - 1) / GROUP * GROUP);
}
