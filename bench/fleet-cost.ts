// Measures the cost of a fleet on one machine: time to the first token, time per token, and goodput of one worker behind a front, beside
// the engine itself. Contenders take turns; medians and 95th percentiles count. `npm run bench:fleet-cost -- --requests 40`

import { parseArgs } from "node:util";
import type { Engine } from "@readme-moe/core";
import { openPromptReader, ReadMeEngine } from "@readme-moe/engine";
import { FleetEngine, FleetWorker } from "@readme-moe/fleet";
import { startValkey } from "../test/support/fleet/valkey.ts";

const { values } = parseArgs({
  options: {
    model: { type: "string", default: "models/pocket" },
    requests: { type: "string", default: "40" },
    tokens: { type: "string", default: "64" },
    "at-once": { type: "string", default: "8" },
  },
});
const [numRequests, maxTokens, numAtOnce] = [Number(values.requests), Number(values.tokens), Number(values["at-once"])];

interface Times {
  readonly firstMs: number;
  readonly tokenMs: number;
}

async function timeOne(engine: Engine, seed: number): Promise<Times> {
  const startMs = performance.now();
  let firstMs = 0;
  let numTokens = 0;
  const params = { maxTokens, seed, ignoreEos: true };
  for await (const { tokens } of engine.generate({ prompt: `Once upon a time ${seed}`, params })) {
    if (numTokens === 0) firstMs = performance.now() - startMs;
    numTokens += tokens.length;
  }
  return { firstMs, tokenMs: (performance.now() - startMs - firstMs) / Math.max(1, numTokens - 1) };
}

/** Returns tokens per second of requests at once. */
async function goodput(engine: Engine, firstSeed: number): Promise<number> {
  const startMs = performance.now();
  await Promise.all(Array.from({ length: numAtOnce }, (_, index) => timeOne(engine, firstSeed + index)));
  return (1000 * numAtOnce * maxTokens) / (performance.now() - startMs);
}

function percentile(sorted: readonly number[], share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? 0;
}

const server = await startValkey();
const engine = await ReadMeEngine.open(values.model);
const worker = FleetWorker.open({ fleet: server.url, engine });
const front = await FleetEngine.open({ fleet: server.url, reader: await openPromptReader(values.model) });
while ((await front.stats(), front.info.modelVersion === undefined));
const contenders = [
  { name: "engine", engine },
  { name: "fleet", engine: front },
].map((contender) => ({ ...contender, first: [] as number[], token: [] as number[], goodput: [] as number[] }));
for (let index = -2; index < numRequests; index++) {
  for (const contender of contenders) {
    const { firstMs, tokenMs } = await timeOne(contender.engine, index + 10);
    const rate = await goodput(contender.engine, 1000 * (index + 3));
    // The first two rounds warm up.
    if (index < 0) continue;
    contender.first.push(firstMs);
    contender.token.push(tokenMs);
    contender.goodput.push(rate);
  }
}
console.log("| | first token p50 | p95 | per token p50 | p95 | tokens/s p50 |\n| --- | --: | --: | --: | --: | --: |");
for (const { name, first, token, goodput: rates } of contenders) {
  const [a, b, c] = [first, token, rates].map((list) => list.toSorted((x, y) => x - y)) as [
    number[],
    number[],
    number[],
  ];
  const figures = [percentile(a, 0.5), percentile(a, 0.95), percentile(b, 0.5), percentile(b, 0.95)];
  console.log(
    `| ${name} | ${figures.map((ms) => `${ms.toFixed(2)} ms`).join(" | ")} | ${percentile(c, 0.5).toFixed(0)} |`,
  );
}
await front.dispose();
await worker.close();
await engine.dispose();
await server.stop();
