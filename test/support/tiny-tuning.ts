import type { HeadOptions, LoraOptions, TuneOptions } from "@readme-moe/refactor";

/** Options of a short tuning with two rounds and their routers. */
export const TINY_TUNING: TuneOptions = {
  tokens: 1536,
  method: "lora",
  rank: 4,
  sharing: "neurons",
  sharedRank: 3,
  attention: true,
  learningRate: 0.01,
  sequenceTokens: 32,
  batchSequences: 6,
  microSequences: 3,
  evaluationSequences: 1,
  evaluations: 4,
  rounds: 2,
  routerSteps: 3,
  routerTokens: 64,
};

/** Options of a short training of two experts of low rank. */
export const TINY_LORA: LoraOptions = {
  tokens: 1536,
  rank: 4,
  alpha: 8,
  attention: true,
  learningRate: 0.01,
  sequenceTokens: 32,
  batchSequences: 4,
  microSequences: 2,
  evaluationSequences: 4,
  routerSteps: 5,
  routerTokens: 64,
};

/** Options of a short training of a draft head. */
export const TINY_HEAD: HeadOptions = {
  tokens: 2048,
  intermediate: 64,
  vocabulary: 512,
  learningRate: 0.003,
  sequenceTokens: 64,
  batchSequences: 4,
  evaluationSequences: 2,
  evaluations: 2,
};
