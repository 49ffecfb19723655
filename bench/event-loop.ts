// Measures the delay of the main thread's event loop while an engine decodes 16 sequences at full speed.
//
//   pnpm bench:loop [model] [--isolation thread|process]

import { monitorEventLoopDelay } from "node:perf_hooks";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { ReadMeEngine } from "@readme-moe/engine";

const RESOLUTION_MS = 1;
const NUM_SEQS = 16;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { isolation: { type: "string", default: "process" }, tokens: { type: "string", default: "100" } },
});
const isolation = values.isolation === "process" ? "process" : "thread";
const engine = await ReadMeEngine.open(positionals[0] ?? "models/pocket", { precision: "fp32", isolation, threads: 2 });

const idle = await delayWhile(() => sleep(3000));
let numTokens = 0;
const startMs = performance.now();
const busy = await delayWhile(() =>
  Promise.all(
    Array.from({ length: NUM_SEQS }, async (_, index) => {
      const prompt = Array.from({ length: 20 }, (__, position) => 100 + index * 20 + position);
      const params = { temperature: 0, maxTokens: Number(values.tokens), ignoreEos: true };
      for await (const chunk of engine.generate({ prompt, params })) numTokens += chunk.tokens.length;
    }),
  ),
);
const seconds = (performance.now() - startMs) / 1000;
console.log(
  `${engine.info.path}, in a ${isolation}: ${NUM_SEQS} sequences, ${(numTokens / seconds).toFixed(0)} tokens a second`,
);
console.log(`event loop delay, ms: idle ${idle}`);
console.log(`                      decoding ${busy}`);
await engine.dispose();

async function delayWhile(work: () => Promise<unknown>): Promise<string> {
  const monitor = monitorEventLoopDelay({ resolution: RESOLUTION_MS });
  monitor.enable();
  await work();
  monitor.disable();
  return `p50 ${ms(monitor.percentile(50))}, p99 ${ms(monitor.percentile(99))}, max ${ms(monitor.max)}`;
}

function ms(nanoseconds: number): string {
  return (nanoseconds / 1e6).toFixed(2);
}
