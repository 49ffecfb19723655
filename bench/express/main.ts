// The middleware under load, over real HTTP, by one model: figures beside their targets; exit code 1 where one is missed.
//
//   pnpm bench:express [model] [--suite overload,loop,cancelled,swap] [--seconds 30] [--rounds 3] [--batch 8]
//     [--tokens 32] [--count n] [--threads 2]
//
// `--count` is the number of requests (loop: 3 times `--batch`; cancelled: 10,000) or of swaps (100).

import { parseArgs } from "node:util";
import type { Settings } from "./settings.ts";
import { cancelled } from "./suites/cancelled.ts";
import { loop } from "./suites/loop.ts";
import { overload } from "./suites/overload.ts";
import { swap } from "./suites/swap.ts";

const SUITES: Readonly<Record<string, (settings: Settings) => Promise<boolean>>> = { overload, loop, cancelled, swap };

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    suite: { type: "string", default: Object.keys(SUITES).join() },
    seconds: { type: "string", default: "30" },
    rounds: { type: "string", default: "3" },
    batch: { type: "string", default: "8" },
    tokens: { type: "string", default: "32" },
    count: { type: "string" },
    threads: { type: "string", default: "2" },
  },
});
const settings: Settings = {
  path: positionals[0] ?? "models/pocket",
  seconds: Number(values.seconds),
  rounds: Number(values.rounds),
  batch: Number(values.batch),
  tokens: Number(values.tokens),
  count: values.count === undefined ? undefined : Number(values.count),
  threads: Number(values.threads),
};
for (const name of values.suite.split(",")) {
  const suite = SUITES[name];
  if (!suite) throw new RangeError(`Expected --suite to be of ${Object.keys(SUITES).join(", ")}, got ${name}`);
  console.log(`\n${name}: ${settings.path}`);
  if (!(await suite(settings))) process.exitCode = 1;
}
