import type { Tokenizer } from "@readme-moe/model";
import { vi } from "vitest";
import { CoreBench, type BenchModel } from "./core-bench.ts";

/**
 * Samples from distributions so flat that the best candidates often do not decide, and once more from all logits.
 *
 * @returns the outcomes of both, and how many runs of the model and how many steps they took
 */
export async function sampleFlat(model: BenchModel, tokenizer: Tokenizer) {
  const flat = { temperature: 4, minP: 0.05, maxTokens: 12, seed: 3 };
  const bench = new CoreBench(model, tokenizer, { capacityTokens: 1024 });
  const forward = vi.spyOn(model.runner, "forward");
  bench.add("from candidates", [1, 2, 3], flat);
  // A penalty that changes nothing, but asks for all logits.
  bench.add("from all logits", [1, 2, 3], { ...flat, presencePenalty: 1e-30 });
  await bench.finish();
  const numRuns = forward.mock.calls.length;
  forward.mockRestore();
  const { outcomes } = bench;
  return {
    numRuns,
    numSteps: bench.count("batch:completed"),
    fromCandidates: outcomes.get("from candidates"),
    fromAllLogits: outcomes.get("from all logits"),
  };
}
