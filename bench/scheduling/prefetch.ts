// Compares prefetching with reading on demand: decode steps over all experts in turn, within budgets, from the system's
// cache and from disks of given speeds. Prints means.
//
//   pnpm bench:prefetch <model> [--budgets 0.5,0.25] [--speeds 2000,500] [--rounds 30]

import { parseArgs } from "node:util";
import { openModel } from "@readme-moe/model";
import { prefetchedDecode, type Decoded } from "./prefetched-decode.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    budgets: { type: "string", default: "0.5,0.25" },
    speeds: { type: "string", default: "2000,500" },
    rounds: { type: "string", default: "30" },
  },
});
const model = await openModel(positionals[0] ?? "models/pocket-experts");
for (const budget of values.budgets.split(",").map(Number)) {
  for (const diskMbPerS of [Infinity, ...values.speeds.split(",").map(Number)]) {
    const options = { threads: 2, budget, diskMbPerS, rounds: Number(values.rounds) };
    const onDemand = await prefetchedDecode(model, { ...options, lookaheadLayers: 0 });
    const ahead = await prefetchedDecode(model, { ...options, lookaheadLayers: 1 });
    const disk = diskMbPerS === Infinity ? "cache" : `${diskMbPerS} MB/s`;
    const gain = (100 * (1 - ahead.meanMs / onDemand.meanMs)).toFixed(0);
    console.log(`budget ${100 * budget} %, ${disk}: on demand ${show(onDemand)}; ahead ${show(ahead)}; ${gain} % less`);
  }
}
await model.close();

function show({ meanMs, stallMs, megabytes }: Decoded): string {
  return `${meanMs.toFixed(1)} ms (stalls ${stallMs.toFixed(1)}, ${megabytes.toFixed(0)} MB a step)`;
}
