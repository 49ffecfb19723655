// Checks that an engine releases its memory: opens, uses and disposes it repeatedly, and reads the memory of this
// process after each cycle. The first cycle is not counted, since it loads the runtime's code.
//
//   pnpm bench:lifecycle [model] [--cycles 20] [--isolation thread|process]

import { parseArgs } from "node:util";
import { ReadMeEngine } from "@readme-moe/engine";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { cycles: { type: "string", default: "20" }, isolation: { type: "string", default: "process" } },
});
const isolation = values.isolation === "process" ? "process" : "thread";
const megabytes: number[] = [];
for (let cycle = 1; cycle <= Number(values.cycles); cycle++) {
  const engine = await ReadMeEngine.open(positionals[0] ?? "models/pocket", {
    precision: "fp32",
    isolation,
    threads: 2,
  });
  const params = { temperature: 0, maxTokens: 8, ignoreEos: true };
  const streams = Array.from({ length: 4 }, (_, index) => engine.generate({ prompt: [10 + index, 20, 30], params }));
  for (const stream of streams) for await (const _ of stream);
  const loaded = process.memoryUsage.rss() / 1e6;
  await engine.dispose();
  globalThis.gc?.();
  megabytes.push(process.memoryUsage.rss() / 1e6);
  console.log(`cycle ${cycle}: ${loaded.toFixed(0)} MB loaded, ${megabytes.at(-1)?.toFixed(0)} MB after`);
}
const [first = 1, last = 1] = [megabytes[0], megabytes.at(-1)];
console.log(
  `in a ${isolation}: memory after the last cycle is ${(((last - first) / first) * 100).toFixed(1)} % above the first`,
);
