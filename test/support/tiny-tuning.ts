import type { TuneOptions } from "@readme-moe/refactor";

/** Options of a short tuning with two rounds and their routers. */
export const TINY_TUNING: TuneOptions = {
  tokens: 1536,
  method: "lora",
  rank: 4,
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
