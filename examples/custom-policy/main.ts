// Compares schedulers and eviction policies, the engine's and our own, on the same requests.

import { join } from "node:path";
import { expertBytes } from "@readme-moe/core";
import { expertLayout, ReadMeEngine, type EngineOptions, type SchedulingOptions } from "@readme-moe/engine";
import { openModel } from "@readme-moe/model";

const MODULE = join(import.meta.dirname, "policies.mjs");
const OUR_SCHEDULER = { module: MODULE, export: "followTheFirst" };
const OUR_POLICY = { module: MODULE, export: "longestIdle" };

/** Eviction policies, each with the schedulers to try. */
const TRIALS: readonly (readonly [EngineOptions["expertCachePolicy"], readonly SchedulingOptions["scheduler"][]])[] = [
  ["belady", ["cost-aware", OUR_SCHEDULER, "fcfs"]],
  ["lru", ["fcfs"]],
  [OUR_POLICY, ["fcfs"]],
];
const PROMPTS = [
  "import os\n\ndef main(argv):\n",
  "The ship was three days out of port",
  "In this paper, we study the spectrum",
  "How do I convert a string to a number in",
  "public static void main(String[] args) {",
  "The town lies on the river, and its people",
];
const ROUNDS = 2;

const path = process.argv[2] ?? "models/pocket-experts";
const expertCacheBytes = await halfOfExperts(path);
console.log(`${ROUNDS * PROMPTS.length} requests at once, ${(expertCacheBytes / 1e6).toFixed(1)} MB for experts\n`);
const [rows, answers] = [[] as object[], new Set<string>()];
for (const [expertCachePolicy, schedulers] of TRIALS) {
  // Steps of few sequences give the scheduler something to choose.
  const engine = await ReadMeEngine.open(path, { expertCacheBytes, expertCachePolicy, maxNumBatchedSeqs: 4 });
  // Fills the cache, so that no trial begins with an empty one.
  for (const prompt of PROMPTS) await answer(engine, prompt, 0);
  for (const scheduler of schedulers) {
    await engine.setScheduling({ scheduler });
    const { texts, ...measured } = await measure(engine);
    rows.push({ scheduler: nameOf(scheduler), "expert cache": nameOf(expertCachePolicy), ...measured });
    answers.add(texts.join());
  }
  await engine.dispose();
}
console.table(rows);
// These decisions change when tokens are generated, never which.
console.log(answers.size === 1 ? "All gave the same answers." : "Answers differ, which is a bug.");

/** Runs all requests at once. */
async function measure(engine: ReadMeEngine) {
  const distinct: number[] = [];
  const latencies: number[] = [];
  const onStep = (step: { readonly distinctExperts: number }): void => void distinct.push(step.distinctExperts);
  const onEnd = (sequence: { readonly durationMs: number }): void => void latencies.push(sequence.durationMs);
  engine.events.on("batch:scheduled", onStep).on("sequence:finished", onEnd);
  const before = (await engine.stats()).expertCache;
  const prompts = Array.from({ length: ROUNDS }, () => PROMPTS).flat();
  const texts = await Promise.all(prompts.map((prompt, seed) => answer(engine, prompt, seed)));
  const after = (await engine.stats()).expertCache;
  engine.events.off("batch:scheduled", onStep).off("sequence:finished", onEnd);
  if (!before || !after) throw new TypeError("Expected a model with streamed experts");
  return {
    texts,
    "experts per step": rounded(mean(distinct), 2),
    "hits %": rounded((100 * (after.hits - before.hits)) / (after.uses - before.uses)),
    "MB read": rounded((after.bytesRead - before.bytesRead) / 1e6, 1),
    "ms per request": rounded(mean(latencies)),
  };
}

async function answer(engine: ReadMeEngine, prompt: string, seed: number): Promise<string> {
  let text = "";
  const params = { maxTokens: 16, seed, ignoreEos: true };
  for await (const chunk of engine.generate({ prompt, params })) text += chunk.text;
  return text;
}

async function halfOfExperts(model: string): Promise<number> {
  const opened = await openModel(model);
  const layout = expertLayout(opened);
  await opened.close();
  return Math.ceil((layout.numExperts * expertBytes(layout)) / 2);
}

function nameOf(decision: string | { readonly export?: string | undefined } | undefined): string {
  return typeof decision === "object" ? `${decision.export} (ours)` : `${decision}`;
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function rounded(value: number, digits = 0): number {
  return Number(value.toFixed(digits));
}
