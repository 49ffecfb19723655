// Reading ahead against reading on demand: decode steps over all experts in turn, within budgets, from the system's cache and
// from disks of given speeds (reads wait for as long as such a disk would take, one after the other). Means.
//
//   pnpm bench:prefetch <model> [--budgets 0.5,0.25] [--speeds 2000,500] [--rounds 30]

import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { KvPool, type KvSlot, openModel, wholeBlocks } from "@readme-moe/model";
import { expertBytes } from "@readme-moe/core";
import { expertLayout } from "@readme-moe/engine";
import { ExpertFile } from "../../packages/engine/src/streamed/expert-file.ts";
import { StreamedRunner } from "../../packages/engine/src/streamed/streamed-runner.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    budgets: { type: "string", default: "0.5,0.25" },
    speeds: { type: "string", default: "2000,500" },
    rounds: { type: "string", default: "30" },
  },
});
const NUM_SEQS = 16;
const model = await openModel(positionals[0] ?? "models/pocket-experts");
const layout = expertLayout(model);
const allBytes = layout.numExperts * expertBytes(layout);

const read = Object.getOwnPropertyDescriptor(ExpertFile.prototype, "read")?.value as ExpertFile["read"];
let diskMbPerS = Infinity;
let freeAtMs = 0;
ExpertFile.prototype.read = async function slowRead(range, expert, into) {
  const startMs = performance.now();
  freeAtMs = Math.max(freeAtMs, startMs) + this.bytesOf(range) / (diskMbPerS * 1e3);
  const endMs = freeAtMs;
  await read.call(this, range, expert, into);
  if (endMs > performance.now()) await sleep(endMs - performance.now());
};

for (const budget of values.budgets.split(",").map(Number)) {
  for (const speed of [Infinity, ...values.speeds.split(",").map(Number)]) {
    diskMbPerS = speed;
    const [onDemand, ahead] = [await decodeWith(budget, 0), await decodeWith(budget, 1)];
    const disk = speed === Infinity ? "cache" : `${speed} MB/s`;
    const gain = (100 * (1 - ahead.meanMs / onDemand.meanMs)).toFixed(0);
    console.log(`budget ${100 * budget} %, ${disk}: on demand ${show(onDemand)}; ahead ${show(ahead)}; ${gain} % less`);
  }
}
await model.close();

interface Decoded {
  readonly meanMs: number;
  readonly stallMs: number;
  readonly megabytes: number;
}

function show({ meanMs, stallMs, megabytes }: Decoded): string {
  return `${meanMs.toFixed(1)} ms (stalls ${stallMs.toFixed(1)}, ${megabytes.toFixed(0)} MB a step)`;
}

async function decodeWith(budget: number, lookaheadLayers: number): Promise<Decoded> {
  const runner = await StreamedRunner.open(model, { threads: 2, expertCacheBytes: budget * allBytes, lookaheadLayers });
  const decoded = await decode(runner);
  await runner.dispose();
  return decoded;
}

/** Steps of 16 sequences; which half of the experts they need changes every few steps. */
async function decode(runner: StreamedRunner): Promise<Decoded> {
  const pool = new KvPool({ shape: runner.kvShape, capacityTokens: NUM_SEQS * wholeBlocks(192) });
  const slots = Array.from({ length: NUM_SEQS }, () => pool.admit(192) as KvSlot);
  const step = async (round: number, length: number): Promise<void> => {
    const first = Math.floor(round / 3) % layout.numExperts;
    await runner.forward(
      pool,
      slots.map((slot, index) => ({
        slot,
        tokenIds: Array.from({ length }, (_, i) => 100 + index * 7 + i),
        experts: Array.from({ length }, () => (first + (index % 4)) % layout.numExperts),
        logitsOf: [length - 1],
      })),
    );
  };
  await step(0, 32);
  const rounds = Number(values.rounds);
  const before = runner.memory.stats;
  const times: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const startMs = performance.now();
    await step(round, 1);
    times.push(performance.now() - startMs);
  }
  const after = runner.memory.stats;
  return {
    meanMs: times.reduce((sum, ms) => sum + ms, 0) / rounds,
    stallMs: (after.stallMs - before.stallMs) / rounds,
    megabytes: (after.bytesRead - before.bytesRead) / 1e6 / rounds,
  };
}
