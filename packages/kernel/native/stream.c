// The residual stream: rows begin as embeddings, blocks add to them, norms read them.

#include "memory.h"
#include "numbers.h"
#include "phases.h"

void look_up(const Kernel *kernel, int32_t token, float *out) {
  const Tensor *t = kernel->embedding;
  float scale = kernel->model.embeddingScale;
  int panel = token / PANEL, column = token % PANEL;
  const uint8_t *bytes = t->weights + (size_t)panel * t->panelBytes;
  for (int i = 0; i < t->numIn; i++) {
    float value = 0;
    int group = i / GROUP, inGroup = i % GROUP;
    const uint8_t *p = bytes + (size_t)group * t->groupBytes;
    switch (t->format) {
      case FORMAT_FLOAT_TABLE: value = ((const float *)t->weights)[(size_t)token * t->numIn + i]; break;
      case FORMAT_HALF_TABLE: value = float_of(((const uint16_t *)t->weights)[(size_t)token * t->numIn + i]); break;
      case FORMAT_FLOAT: value = ((const float *)bytes)[(size_t)i * PANEL + column]; break;
      case FORMAT_INT8: value = (float)(p[inGroup / 4 * 256 + column * 4 + inGroup % 4] - 128) * t->scales[token]; break;
      case FORMAT_INT8_BLOCKS: {
        const float *scales = (const float *)(p + GROUP * PANEL) + inGroup / t->block * PANEL;
        value = (float)(p[inGroup / 4 * 256 + column * 4 + inGroup % 4] - 128) * scales[column];
        break;
      }
      case FORMAT_INT4_BLOCKS: {
        const float *scales = (const float *)(p + GROUP / 2 * PANEL), *minimums = scales + GROUP / t->block * PANEL;
        int byte = p[inGroup % 16 / 4 * 256 + column * 4 + inGroup % 4], nibble = inGroup < 16 ? byte & 15 : byte >> 4;
        int at = inGroup / t->block * PANEL + column;
        value = t->hasMinimums ? scales[at] * (float)nibble + minimums[at] : scales[at] * (float)(nibble - 8);
        break;
      }
    }
    out[i] = value * scale;
  }
}

void add_update(Kernel *kernel, int streamRow, int row, const float *outputNorm, float scale) {
  float *stream = kernel->stream + (size_t)streamRow * kernel->hiddenWidth, *update = kernel->update + (size_t)row * kernel->hiddenWidth;
  if (outputNorm)
    kernel->loops->norm(update, outputNorm, kernel->model.normEpsilon, kernel->model.hiddenSize, kernel->hiddenWidth, update);
  kernel->loops->add_scaled(stream, update, scale, kernel->hiddenWidth);
}

void norm_row(Kernel *kernel, int streamRow, int row, const float *scales) {
  const float *stream = kernel->stream + (size_t)streamRow * kernel->hiddenWidth;
  float *inputs = kernel->normed.floats + (size_t)row * kernel->normed.width;
  if (scales) kernel->loops->norm(stream, scales, kernel->model.normEpsilon, kernel->model.hiddenSize, kernel->hiddenWidth, inputs);
  else memcpy(inputs, stream, (size_t)kernel->hiddenWidth * 4);
  if (kernel->rounds) kernel->loops->round_row(&kernel->normed, row, 0, (kernel->model.hiddenSize + GROUP - 1) / GROUP * GROUP);
}
