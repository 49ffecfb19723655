// How free a server's main thread stays while it answers as much as it can: ours, whole answers and streams, and
// transformers.js in an Express handler. One after the other in each round, each in a process of its own.

import { setTimeout as sleep } from "node:timers/promises";
import { percentile } from "readme-moe/bench";
import { healthMs } from "../client.ts";
import { printTable, verdict } from "../figures.ts";
import { closedLoop, completions } from "../load.ts";
import { startServer, type LoopDelay, type ServerProcess } from "../server-process.ts";
import type { Settings } from "../settings.ts";

interface Measured {
  readonly loop: LoopDelay;
  readonly healthMs: readonly number[];
  readonly tokensPerSecond: number;
}

const HEALTH_PERIOD_MS = 20;
const REQUESTS_PER_CLIENT = 3;

export async function loop({ path, rounds, batch, tokens, threads, count }: Settings): Promise<boolean> {
  const engine = { threads, maxNumSeqs: batch, prefixCacheBytes: 0 };
  await using ours = await startServer("server.ts", { path, engine });
  await using peer = await startServer("peer-server.ts", { path });
  const numRequests = count ?? REQUESTS_PER_CLIENT * batch;
  const contenders = [
    { name: "readme-moe", server: ours, stream: false },
    { name: "readme-moe, streams", server: ours, stream: true },
    { name: "transformers.js in Express", server: peer, stream: false },
  ].map((one) => ({ ...one, measured: [] as Measured[] }));
  // Memory is taken, and code compiled, before anything counts.
  for (const one of contenders) await measure(one.server, one.stream, batch, batch, tokens);
  for (let round = 0; round < rounds; round++) {
    for (const one of round % 2 === 0 ? contenders : contenders.toReversed()) {
      one.measured.push(await measure(one.server, one.stream, numRequests, batch, tokens));
    }
  }
  const rows = contenders.map(({ name, measured }) => {
    const health = measured.flatMap((each) => each.healthMs);
    return {
      name,
      loopP50: percentile(
        measured.map((each) => each.loop.p50),
        50,
      ),
      loopP99: percentile(
        measured.map((each) => each.loop.p99),
        50,
      ),
      loopMax: Math.max(...measured.map((each) => each.loop.max)),
      healthP50: percentile(health, 50),
      healthP99: percentile(health, 99),
      tokensPerSecond: percentile(
        measured.map((each) => each.tokensPerSecond),
        50,
      ),
    };
  });
  console.log(`${numRequests} requests of ${tokens} tokens, ${batch} at once; medians of ${rounds} rounds, ms`);
  printTable([
    ["", "loop p50", "p99", "max", "/health p50", "p99", "tokens/s"],
    ...rows.map((row) => Object.values(row)),
  ]);
  return rows
    .filter(({ name }) => name.startsWith("readme-moe"))
    .flatMap(({ name, loopP99, healthP99 }) => [
      verdict(`${name}: event loop, p99`, loopP99, "ms", 10),
      verdict(`${name}: /health, p99`, healthP99, "ms", 50),
    ])
    .every(Boolean);
}

async function measure(
  server: ServerProcess,
  stream: boolean,
  numRequests: number,
  batch: number,
  tokens: number,
): Promise<Measured> {
  const over = new AbortController();
  const health: number[] = [];
  const watch = async (): Promise<void> => {
    while (!over.signal.aborted) {
      health.push(await healthMs(server.url));
      await sleep(HEALTH_PERIOD_MS);
    }
  };
  await server.call("startLoop");
  const watching = watch();
  const startMs = performance.now();
  const answers = await closedLoop(batch, completions(server.url, tokens, stream), (asked) => asked >= numRequests);
  const seconds = (performance.now() - startMs) / 1000;
  over.abort();
  const delay = await server.call("stopLoop");
  await watching;
  const failed = answers.find(({ status, isWhole }) => status !== 200 || !isWhole);
  if (failed) throw new Error(`Expected answers only, got ${failed.status} ${failed.errorCode ?? ""}`);
  const numTokens = answers.reduce((sum, { completionTokens }) => sum + completionTokens, 0);
  return { loop: delay, healthMs: health, tokensPerSecond: numTokens / seconds };
}
