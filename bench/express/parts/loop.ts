// Measures the event loop of a fully loaded server: ours with whole answers and streams, and transformers.js in an
// Express handler. They take turns, each in its own process.

import { setTimeout as sleep } from "node:timers/promises";
import { type Figure, valuesOf } from "../../kit/samples.ts";
import { interleave, type Interleaved } from "../../kit/turns.ts";
import { median, percentile } from "../../kit/statistics.ts";
import type { SuiteContext, SuiteReport, Target } from "../../kit/suite.ts";
import { summaryTable } from "../../kit/report.ts";
import { afterWarmUp } from "../../after-warm-up.ts";
import { LIBRARIES, readyPeers } from "../../engine/peers.ts";
import { lazily, type Lazy } from "../../lazily.ts";
import { healthMs } from "../client.ts";
import { closedLoop, completions } from "../load.ts";
import { ourEngine } from "../our-engine.ts";
import { servedOf, type Served } from "../served.ts";
import { startServer, type ServerProcess } from "../server-process.ts";
import { targetUnder } from "./targets.ts";

const HEALTH_PERIOD_MS = 20;
const REQUESTS_PER_CLIENT = 3;
const OURS = ["readme-moe", "readme-moe, streams"] as const;
const METRICS = { loopP99: "event loop p99, ms", healthP99: "/health p99, ms" } as const;
const WANTED = { loopP99Ms: 10, healthP99Ms: 50 } as const;

export async function loop(context: SuiteContext): Promise<SuiteReport> {
  const served = servedOf(context);
  const { path, batch, tokens } = served;
  await using ours = lazily(() => startServer("server.ts", { path, engine: ourEngine(context, batch) }));
  await using peer = lazily(() => startPeer(context, served));
  const variants = [
    { name: OURS[0], server: ours, stream: false },
    { name: OURS[1], server: ours, stream: true },
    { name: "transformers.js in Express", server: peer, stream: false },
  ].map(({ name, server, stream }) => ({ name, measure: measurer(server, stream, served) }));
  const measured = await interleave(context, "event loop", variants);
  const title = `Event loop and /health: ${REQUESTS_PER_CLIENT * batch} requests of ${tokens} tokens, ${batch} at once`;
  return {
    tables: [summaryTable(measured.samples, { title, seed: context.settings.seed })],
    targets: loopTargets(measured),
    samples: measured.samples,
    notes: Array.from(measured.failures, ([name, why]) => `${name}: not measured: ${why}`),
  };
}

async function startPeer(context: SuiteContext, { path, batch, tokens }: Served): Promise<ServerProcess> {
  const files = await readyPeers(context);
  if (!files) throw new TypeError(`Expected a dense model, which peers run, got ${path}`);
  const { threads } = context.settings;
  const library = LIBRARIES.transformersJs;
  const peer = { library, model: files.onnx, variant: "q8", threads, places: batch, contextTokens: 2 * tokens };
  return startServer("peer-server.ts", { path, peer });
}

function measurer(server: Lazy<ServerProcess>, stream: boolean, served: Served): () => Promise<readonly Figure[]> {
  const { batch } = served;
  const ask = async (numRequests: number): Promise<readonly Figure[]> =>
    measure(await server.value(), stream, numRequests, served);
  return afterWarmUp(
    () => ask(batch),
    () => ask(REQUESTS_PER_CLIENT * batch),
  );
}

async function measure(
  server: ServerProcess,
  stream: boolean,
  numRequests: number,
  { batch, tokens }: Served,
): Promise<readonly Figure[]> {
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
  return [
    { metric: "event loop p50, ms", value: delay.p50 },
    { metric: METRICS.loopP99, value: delay.p99 },
    { metric: "event loop max, ms", value: delay.max },
    { metric: "/health p50, ms", value: percentile(health, 50) },
    { metric: METRICS.healthP99, value: percentile(health, 99) },
    { metric: "new tokens, tok/s", value: numTokens / seconds },
  ];
}

export function loopTargets({ samples }: Pick<Interleaved, "samples">): readonly Target[] {
  return OURS.flatMap((variant) => {
    const of = (metric: string): number => median(valuesOf(samples, { variant, metric }));
    return [
      targetUnder(`${variant}: event loop, p99`, of(METRICS.loopP99), "ms", WANTED.loopP99Ms),
      targetUnder(`${variant}: /health, p99`, of(METRICS.healthP99), "ms", WANTED.healthP99Ms),
    ];
  });
}
