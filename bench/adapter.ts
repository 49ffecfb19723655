// Calls at once through transformers.js' own pipeline, and through the adapter's: the same callers, weights, options
// and process, by turns. Greedy, so that both do the same work; the texts are compared.
//
//   pnpm bench:adapter [model] [--calls 16] [--tokens 48] [--rounds 3] [--dtype fp32]

import { existsSync } from "node:fs";
import { join } from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { parseArgs } from "node:util";
import * as huggingface from "@huggingface/transformers";
import { createPipeline } from "@readme-moe/adapter";
import { exportTransformersJs, openModel, resolveCacheFolder } from "@readme-moe/model";
import { median } from "readme-moe/bench";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    calls: { type: "string", default: "16" },
    tokens: { type: "string", default: "48" },
    rounds: { type: "string", default: "3" },
    dtype: { type: "string", default: "fp32" },
  },
});
const [numCalls, tokens, rounds] = [Number(values.calls), Number(values.tokens), Number(values.rounds)];
const dtype = values.dtype as "fp32" | "q8" | "q4";
const path = positionals[0] ?? "models/pocket";

const SUBJECTS = ["sea", "mountain", "engine", "garden", "letter", "city", "number", "river"];
const prompts = Array.from({ length: numCalls }, (_, call) => {
  const subject = SUBJECTS[call % SUBJECTS.length];
  return `Chapter ${call + 1}. The ${subject} was larger than anybody had thought, and so it was no surprise that`;
});
const options = { max_new_tokens: tokens, min_new_tokens: tokens, return_full_text: false };

huggingface.env.allowRemoteModels = false;
const contenders = { host: await hostPipeline(), ours: await ourPipeline() };
type Name = keyof typeof contenders;

interface Measured {
  readonly tokensPerSecond: number;
  readonly loopP99Ms: number;
  readonly texts: readonly string[];
}

const all: Record<Name, Measured[]> = { host: [], ours: [] };
await measure("host");
await measure("ours");
for (let round = 0; round < rounds; round++) {
  for (const name of ["host", "ours", "ours", "host"] as const) all[name].push(await measure(name));
}
for (const name of ["host", "ours"] as const) {
  const speed = median(all[name].map(({ tokensPerSecond }) => tokensPerSecond));
  const delay = median(all[name].map(({ loopP99Ms }) => loopP99Ms));
  console.log(`${name.padEnd(5)} ${speed.toFixed(1)} tokens/s, event loop p99 ${delay.toFixed(1)} ms`);
}
const ratios = all.ours.map(({ tokensPerSecond }, i) => tokensPerSecond / (all.host[i]?.tokensPerSecond ?? NaN));
const equal = prompts.filter((_, call) => all.ours[0]?.texts[call] === all.host[0]?.texts[call]).length;
console.log(
  `ours over host: ${median(ratios).toFixed(2)} (${numCalls} calls at once, ${tokens} tokens each, ${dtype})`,
);
console.log(`${equal} of ${numCalls} texts are the same`);
await contenders.ours.dispose();
process.exit(0); // the host's sessions would be waited for

async function hostPipeline() {
  const folder = join(resolveCacheFolder(), "bench-adapter", path.replaceAll(/[^\w.-]/g, "_"));
  if (!existsSync(join(folder, "onnx"))) {
    const model = await openModel(path);
    await exportTransformersJs(model, folder, { dtypes: [dtype] });
    await model.close();
  }
  return huggingface.pipeline("text-generation", folder, { dtype });
}

async function ourPipeline() {
  const pipeline = createPipeline(huggingface);
  return pipeline("text-generation", path, { dtype, engine: "readme-moe" });
}

async function measure(name: Name): Promise<Measured> {
  const generate = contenders[name];
  const loop = monitorEventLoopDelay({ resolution: 1 });
  loop.enable();
  const startMs = performance.now();
  const results = await Promise.all(prompts.map((prompt) => generate(prompt, options)));
  const seconds = (performance.now() - startMs) / 1000;
  loop.disable();
  const texts = results.map(([one]) => one?.generated_text ?? "");
  return { tokensPerSecond: (numCalls * tokens) / seconds, loopP99Ms: loop.percentile(99) / 1e6, texts };
}
