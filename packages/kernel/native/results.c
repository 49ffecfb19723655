// Results of wanted rows: the best logits, the parts of the log-sum-exp, targets' logits, and all logits on request.

#include "candidates.h"
#include "memory.h"
#include "phases.h"

/** Writes the results of one wanted row, from its logits and the largest and sum of each block of them. */
static void write_results(Kernel *kernel, int wanted, int place) {
  const Step *step = kernel->step;
  int numLogits = kernel->model.numLogits, numBlocks = kernel->logitsWidth / LOGIT_BLOCK;
  const float *logits = kernel->logits + (size_t)place * kernel->logitsWidth;
  float *largest = kernel->largest + (size_t)place * numBlocks, *sums = kernel->sums + (size_t)place * numBlocks;
  float top = -__builtin_inff();
  // A NaN in any block makes the sum NaN.
  for (int b = 0; b < numBlocks; b++) top = largest[b] > top || largest[b] != largest[b] ? largest[b] : top;
  double sum = 0;
  float shares[16];
  for (int b = 0; b < numBlocks; b += 16) {
    float padded[16];
    int count = least(16, numBlocks - b);
    for (int i = 0; i < 16; i++) padded[i] = i < count ? largest[b + i] : top;
    kernel->loops->exponentials(padded, top, shares, 16);
    for (int i = 0; i < count; i++) sum += (double)sums[b + i] * (double)shares[i];
  }
  // The caller computes the logarithm from the sum and the largest logit.
  step->logSumExp[2 * wanted] = (double)top;
  step->logSumExp[2 * wanted + 1] = sum;
  int32_t numCandidates = step->numCandidates;
  best_candidates(logits, numLogits, largest, numCandidates, step->candidateIds + (size_t)wanted * numCandidates,
                  step->candidateLogits + (size_t)wanted * numCandidates);
  step->targetLogits[wanted] = logits[step->targets[wanted]];
  if (step->fullPlaces[wanted] >= 0)
    memcpy(step->fullLogits + (size_t)step->fullPlaces[wanted] * (size_t)numLogits, logits, (size_t)numLogits * 4);
}

void compute_results(Kernel *kernel, Member *member, int from, int to) {
  const Loops *loops = kernel->loops;
  int numRows = to - from, numBlocks = kernel->logitsWidth / LOGIT_BLOCK, perTask = 4;
  float scale = kernel->model.logitScale, cap = kernel->model.logitCap;
  // Rows whose logits are wanted several times are several rows here.
  const Lora *loras[LOGIT_ROWS];
  for (int row = 0; row < numRows; row++) loras[row] = kernel->rowLoras[kernel->step->wanted[from + row]];
  LoraRows loraRows = {numRows, loras, kernel->model.numLayers * LORA_PRODUCTS, 1, 0};
  loraRows = lower_rows(kernel, member, loraRows, &kernel->normed, kernel->model.hiddenSize);
  EACH_TASK(member, task, (numBlocks + perTask - 1) / perTask) {
    for (int block = task * perTask; block < least(numBlocks, (task + 1) * perTask); block++) {
      float *logits = kernel->logits + (size_t)block * LOGIT_BLOCK;
      prefetch_raise(&loraRows, 0, 0, numRows, block * 4, block * 4 + 4);
      loops->product(kernel->head, block * 4, block * 4 + 4, &kernel->normed, 0, numRows, logits, kernel->logitsWidth, NULL);
      raise_rows(kernel, &loraRows, 0, 0, numRows, block * 4, block * 4 + 4, logits, kernel->logitsWidth);
      for (int row = 0; row < numRows; row++) {
        float *own = logits + (size_t)row * kernel->logitsWidth;
        if (scale != 1.0f)
          for (int i = 0; i < LOGIT_BLOCK; i++) own[i] *= scale;
        if (cap > 0) loops->cap_values(own, LOGIT_BLOCK, cap);
        for (int i = kernel->model.numLogits - block * LOGIT_BLOCK; i < LOGIT_BLOCK; i++) own[i] = -3e38f;
        loops->summarize(own, LOGIT_BLOCK, kernel->largest + (size_t)row * numBlocks + block, kernel->sums + (size_t)row * numBlocks + block);
      }
    }
  }
  team_next_phase(member);
  EACH_TASK(member, row, numRows) write_results(kernel, from + row, row);
  team_next_phase(member);
}

int kernel_keeps_logits(const Kernel *kernel, int32_t wanted) { return wanted >= kernel->firstKept && wanted < kernel->endKept; }

const char *kernel_read_logits(const Kernel *kernel, int32_t wanted, float *logits, size_t length) {
  if (!kernel_keeps_logits(kernel, wanted)) return "a row that is not kept";
  if (length != (size_t)kernel->model.numLogits) return "room for the logits";
  memcpy(logits, kernel->logits + (size_t)(wanted - kernel->firstKept) * kernel->logitsWidth, length * 4);
  return NULL;
}
