// Measures decode steps of the engine with 1, 16 and 32 sequences, and the forward pass of each. Prints medians.
//
//   pnpm bench:step <model> [--precision fp32] [--threads 2] [--past 120] [--sequences 1,16,32] [--sampled]
//
// Decodes greedily, or with `--sampled` at temperature 1 and top-p 0.95.

import { parseArgs } from "node:util";
import { KernelRunner } from "@readme-moe/engine";
import { openModel, type Precision } from "@readme-moe/model";
import { fixedRouter } from "@readme-moe/router";
import { median } from "./kit/statistics.ts";
import { decodingCore } from "./decoding-core.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    precision: { type: "string", default: "fp32" },
    threads: { type: "string", default: "2" },
    past: { type: "string", default: "120" },
    sequences: { type: "string", default: "1,16,32" },
    sampled: { type: "boolean", default: false },
  },
});
const threads = Number(values.threads);
const past = Number(values.past);
const precision = values.precision as Precision;
const ROUNDS = 40;

const model = await openModel(positionals[0] ?? "models/pocket");
const { tokenizer } = await model.loadText();
const runner = await KernelRunner.open(model, { threads, precision });

console.log(
  `${model.path}, ${precision}, ${threads} threads, past of ${past} tokens; milliseconds a step, median of ${ROUNDS} rounds`,
);
for (const numSeqs of values.sequences.split(",").map(Number)) {
  const times = { engine: [] as number[], forward: [] as number[] };
  const router = fixedRouter(model.experts.names.length, 0);
  const engine = await decodingCore({
    runner,
    tokenizer,
    router,
    numSeqs,
    past,
    rounds: ROUNDS,
    params: values.sampled ? { temperature: 1, topP: 0.95 } : { temperature: 0 },
    onEvent: (name, payload) => {
      if (name === "batch:completed" && "forwardMs" in payload) times.forward.push(payload.forwardMs);
    },
  });
  for (let round = 0; round < ROUNDS; round++) times.engine.push(await timeMs(() => engine.core.step()));
  const [step, forward] = [median(times.engine), median(times.forward.slice(-ROUNDS))];
  const share = `${(((step - forward) / forward) * 100).toFixed(1)} %`;
  console.log(
    `${String(numSeqs).padStart(2)} sequences: engine ${step.toFixed(2)}, forward pass ${forward.toFixed(2)}, overhead ${share}`,
  );
}
await runner.dispose();
await model.close();

async function timeMs(work: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await work();
  return performance.now() - start;
}
