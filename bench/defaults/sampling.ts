// The sampling parameters that programs and model makers use by default.

import type { SamplingParams } from "@readme-moe/core";

/** Sampling parameters under a name for tables. */
export interface NamedSampling {
  readonly name: string;
  readonly params: Omit<SamplingParams, "maxTokens" | "seed">;
}

export const SAMPLINGS: readonly NamedSampling[] = [
  { name: "greedy", params: { temperature: 0 } },
  { name: "greedy, repetition penalty 1.1", params: { temperature: 0, repetitionPenalty: 1.1 } },
  { name: "T 0.2, top-p 0.9", params: { temperature: 0.2, topP: 0.9 } },
  { name: "T 0.3, min-p 0.05", params: { temperature: 0.3, minP: 0.05 } },
  {
    name: "T 0.3, min-p 0.05, repetition penalty 1.05",
    params: { temperature: 0.3, minP: 0.05, repetitionPenalty: 1.05 },
  },
  { name: "T 0.6, top-k 20, top-p 0.95", params: { temperature: 0.6, topK: 20, topP: 0.95 } },
  { name: "T 0.7", params: { temperature: 0.7 } },
  { name: "T 0.7, top-p 0.95", params: { temperature: 0.7, topP: 0.95 } },
  { name: "T 0.8, top-k 40, top-p 0.95, min-p 0.05", params: { temperature: 0.8, topK: 40, topP: 0.95, minP: 0.05 } },
  {
    name: "T 0.8, top-k 40, top-p 0.9, repetition penalty 1.1",
    params: { temperature: 0.8, topK: 40, topP: 0.9, repetitionPenalty: 1.1 },
  },
  { name: "T 1, top-p 0.95", params: { temperature: 1, topP: 0.95 } },
];
