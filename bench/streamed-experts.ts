// Measures the cost of streamed experts: decode steps of a Read-ME model in int8 with all experts in memory, and with
// budgets of 100, 75, 50 and 25 % of their bytes, with one and with several distinct experts. Prints medians.
//
//   pnpm bench:streamed <model> [--threads 2] [--rounds 20]

import { parseArgs } from "node:util";
import { expertBytes } from "@readme-moe/core";
import { expertLayout, KernelRunner } from "@readme-moe/engine";
import { type KvSlot, wholeBlocks } from "@readme-moe/kernel";
import { openModel } from "@readme-moe/model";
import { median } from "./kit/statistics.ts";
import type { StepRunner } from "../packages/engine/src/step-runner.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { threads: { type: "string", default: "2" }, rounds: { type: "string", default: "20" } },
});
const [threads, rounds] = [Number(values.threads), Number(values.rounds)];
const model = await openModel(positionals[0] ?? "models/pocket-experts");
const layout = expertLayout(model);
const allBytes = layout.numExperts * expertBytes(layout);
const numExperts = model.experts.names.length;
const cases = [
  { numSeqs: 1, distinct: 1 },
  { numSeqs: 16, distinct: 1 },
  { numSeqs: 16, distinct: Math.min(4, numExperts) },
  { numSeqs: 16, distinct: numExperts },
];

const resident = await KernelRunner.open(model, { precision: "int8", threads });
await report("all in memory", resident);
await resident.dispose();
for (const share of [1, 0.75, 0.5, 0.25]) {
  const runner = await KernelRunner.open(model, { threads, expertCacheBytes: Math.floor(share * allBytes) });
  await report(`${share * 100} %`, runner);
  console.log(`  ${JSON.stringify(runner.memory?.stats)}`);
  await runner.dispose();
}
await model.close();

async function report(name: string, runner: StepRunner): Promise<void> {
  const times: string[] = [];
  for (const { numSeqs, distinct } of cases) {
    const kv = runner.openKv({ capacityTokens: numSeqs * wholeBlocks(256) });
    const slots = Array.from({ length: numSeqs }, () => kv.admit(256) as KvSlot);
    const step = (length: number) =>
      runner.forward(
        kv,
        slots.map((slot, index) => ({
          slot,
          tokenIds: Array.from({ length }, (_, i) => 100 + index * 7 + i),
          experts: Array.from({ length }, () => index % distinct),
          logitsOf: [length - 1],
        })),
      );
    await step(100);
    const own: number[] = [];
    for (let round = 0; round < rounds; round++) {
      const startMs = performance.now();
      await step(1);
      own.push(performance.now() - startMs);
    }
    times.push(`${numSeqs} on ${distinct}: ${median(own).toFixed(1)} ms`);
  }
  console.log(`${name.padEnd(14)} ${times.join(", ")}`);
}
