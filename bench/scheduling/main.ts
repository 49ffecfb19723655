// A mixed load of all domains under each scheduler, with all experts in memory and within budgets, and the dense model beside
// it. Schedulers take turns on the same engine, forwards and backwards, with the same requests; medians over rounds.
//
//   pnpm bench:scheduling <model> --data <folder of domain.jsonl> [--dense <model>] [--batch 12] [--requests 48] [--loads 1,2,4]
//     [--budgets 1,0.75,0.5,0.25] [--rounds 2] [--csv results.csv]

import { appendFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { ReadMeEngine, type SchedulingOptions } from "@readme-moe/engine";
import { median } from "readme-moe/bench";
import { measure, type Measured } from "./measure.ts";
import { allExpertBytes } from "./expert-bytes.ts";
import { SCHEDULERS } from "./schedulers.ts";
import { requestsOf } from "./workload.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    data: { type: "string", default: "models/pocket/calibration" },
    dense: { type: "string" },
    batch: { type: "string", default: "12" },
    requests: { type: "string", default: "48" },
    loads: { type: "string", default: "1,2,4" },
    budgets: { type: "string", default: "1,0.75,0.5,0.25" },
    rounds: { type: "string", default: "2" },
    csv: { type: "string" },
  },
});
const [path = "models/pocket-experts"] = positionals;
const [batch, numRequests, rounds] = [Number(values.batch), Number(values.requests), Number(values.rounds)];
const loads = values.loads.split(",").map(Number);
const budgets = values.budgets.split(",").map(Number);
const shared = {
  precision: "int8",
  threads: 2,
  maxNumSeqs: batch * Math.max(...loads),
  maxNumBatchedSeqs: batch,
  prefixCacheBytes: 0,
} as const;

const resident = await ReadMeEngine.open(path, shared);
const requests = await requestsOf(resident, [values.data], numRequests, 1);
console.log(`${path}: ${resident.info.experts.length} experts, ${numRequests} requests, ${batch} sequences in a step`);
await series("all in memory", resident, Object.entries(SCHEDULERS));
await resident.dispose();

const allBytes = await allExpertBytes(path);
console.log(`experts take ${(allBytes / 1e6).toFixed(0)} MB`);
for (const share of budgets) {
  const engine = await ReadMeEngine.open(path, { ...shared, expertCacheBytes: Math.ceil(share * allBytes) });
  await series(`${100 * share} %`, engine, Object.entries(SCHEDULERS));
  await engine.dispose();
}
if (values.dense !== undefined) {
  for (const precision of ["int8", "int4"] as const) {
    const engine = await ReadMeEngine.open(values.dense, { ...shared, precision });
    await series(`dense ${precision}`, engine, [["cost-aware", {}]]);
    await engine.dispose();
  }
}

async function series(
  name: string,
  engine: ReadMeEngine,
  schedulers: readonly (readonly [string, SchedulingOptions])[],
): Promise<void> {
  // Memory is taken, and coefficients are learnt, before anything counts.
  await measure(engine, requests.slice(0, batch), batch);
  for (const load of loads) {
    const all = new Map<string, Measured[]>(schedulers.map(([scheduler]) => [scheduler, []]));
    for (let round = 0; round < rounds; round++) {
      for (const [scheduler, options] of round % 2 === 0 ? schedulers : schedulers.toReversed()) {
        await engine.setScheduling(options);
        const measured = await measure(engine, requests, load * batch);
        all.get(scheduler)?.push(measured);
        if (values.csv !== undefined) {
          const row = [path, name, load, scheduler, round, ...Object.values(measured).map((value) => value ?? "")];
          await appendFile(values.csv, `${row.join(",")}\n`);
        }
      }
    }
    for (const [scheduler, measured] of all) console.log(line(name, load, scheduler, measured));
  }
}

function line(name: string, load: number, scheduler: string, all: readonly Measured[]): string {
  const of = (pick: (one: Measured) => number | undefined): number => median(all.map((one) => pick(one) ?? Number.NaN));
  const cells = [
    of((one) => one.distinctExperts).toFixed(2),
    of((one) => one.meanMsPerToken).toFixed(0),
    of((one) => one.p95MsPerToken).toFixed(0),
    of((one) => one.meanFirstTokenMs).toFixed(0),
    of((one) => one.tokensPerSecond).toFixed(1),
    (100 * of((one) => one.hitRatio)).toFixed(0),
    of((one) => one.megabytesRead).toFixed(0),
    of((one) => one.steps).toFixed(0),
    (100 * of((one) => one.predictionError)).toFixed(0),
    of((one) => one.residentMegabytes).toFixed(0),
  ];
  return `${name.padEnd(14)} ${load}x ${scheduler.padEnd(14)} ${cells.map((cell) => cell.padStart(7)).join("")}`;
}
