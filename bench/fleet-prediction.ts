// Compares a real fleet with the simulator's prediction of it: the same jobs at the same times, with the experts that they really had, on
// workers whose steps cost what the real ones measured. `npm run bench:fleet-prediction -- --model my-smollm2 --rate 2`

import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { costAware, seededRandom, type CostModel, type GenerateRequest } from "@readme-moe/core";
import { simulateFleet } from "@readme-moe/refactor/simulation";
import { openPromptReader } from "@readme-moe/engine";
import { FleetEngine, readFleetStatus } from "@readme-moe/fleet";
import { affinityOf, countExperts, sharesOf } from "../packages/fleet/src/affinity.ts";
import { markdownTable } from "./kit/report.ts";
import { mean, percentile } from "./kit/statistics.ts";
import { killMachine, startMachine } from "../test/support/fleet/machines.ts";
import { startValkey } from "../test/support/fleet/valkey.ts";

const { values } = parseArgs({
  options: {
    model: { type: "string" },
    prompts: { type: "string", default: "models/smollm2-135m/prompts.txt" },
    machines: { type: "string", default: "2" },
    /** Requests per second. */
    rate: { type: "string", default: "2" },
    seconds: { type: "string", default: "60" },
    tokens: { type: "string", default: "32" },
  },
});
if (values.model === undefined) throw new TypeError("Expected --model, the folder of a model with experts");
const [numMachines, rate, seconds] = [Number(values.machines), Number(values.rate), Number(values.seconds)];
const maxTokens = Number(values.tokens);
const PATIENCE_MS = 30_000;
const PLACES = 32;

/** A job as it went. */
interface Done {
  readonly arrivalMs: number;
  readonly firstMs: number;
  readonly lastMs: number;
  readonly promptTokens: number;
  readonly tokenIds: ArrayLike<number>;
  readonly promptExperts: readonly number[];
  readonly experts: readonly number[];
}

const valkey = await startValkey();
const machines = await Promise.all(
  Array.from({ length: numMachines }, (_, index) =>
    startMachine({ fleet: valkey.url, model: values.model ?? "", id: `machine-${index}` }),
  ),
);
const front = await FleetEngine.open({ fleet: valkey.url, reader: await openPromptReader(values.model) });
while ((await front.stats(), front.info.maxNumSeqs < PLACES * numMachines)) await sleep(100);
const prompts = readFileSync(values.prompts, "utf8")
  .split("\n")
  .filter((line) => line !== "");

async function answer(index: number, startMs: number): Promise<Done> {
  const messages = [{ role: "user", content: prompts[index % prompts.length] ?? "" }] as const;
  const request: GenerateRequest = { prompt: { messages }, params: { maxTokens, seed: index, ignoreEos: true } };
  const { tokenIds, experts: promptExperts } = await front.route(request.prompt);
  const arrivalMs = performance.now() - startMs;
  let firstMs = NaN;
  const experts: number[] = [];
  for await (const { tokens } of front.generate(request)) {
    if (Number.isNaN(firstMs)) firstMs = performance.now() - startMs;
    // The last token has no expert: it does not run.
    for (const { expert } of tokens) if (expert !== undefined) experts.push(expert);
  }
  const lastMs = performance.now() - startMs;
  return {
    arrivalMs,
    firstMs,
    lastMs,
    promptTokens: tokenIds.length,
    tokenIds,
    promptExperts: [...promptExperts],
    experts,
  };
}

/** Sends jobs as a Poisson process. */
async function load(perSecond: number, durationS: number, seed: number): Promise<readonly Done[]> {
  const random = seededRandom(seed);
  const running: Promise<Done>[] = [];
  const startMs = performance.now();
  for (let atMs = 0; ;) {
    atMs -= (1000 * Math.log(1 - random())) / perSecond;
    if (atMs > 1000 * durationS) break;
    await sleep(Math.max(0, startMs + atMs - performance.now()));
    running.push(answer(seed * 1000 + running.length, startMs));
  }
  return Promise.all(running);
}

// Steps are measured before they count.
await load(rate, Math.min(15, seconds / 3), 1);
const before = await readFleetStatus(valkey.url);
const done = (await load(rate, seconds, 2)).toSorted((a, b) => a.arrivalMs - b.arrivalMs);
await sleep(1500);
const { workers } = await readFleetStatus(valkey.url);
const tokensOf = workers.map(({ id, counters }) => {
  const old = before.workers.find((one) => one.id === id);
  return counters.tokens - (old?.counters.tokens ?? 0);
});
const costNames = ["fixedMs", "msPerToken", "msPerExpert", "msPerCachedToken", "loadMsPerByte"] as const;
const cost = Object.fromEntries(
  costNames.map((name) => [name, mean(workers.map((one) => one.cost[name]))]),
) as unknown as CostModel;
const { info } = front;
const jobs = done.map((one, number) => ({
  id: String(number),
  number,
  arrivalMs: one.arrivalMs,
  promptTokens: one.promptTokens,
  experts: [...one.promptExperts, ...one.experts],
  expertShares: sharesOf(countExperts(one.promptExperts, info)) ?? [1],
  key: affinityOf({ tokenIds: one.tokenIds, experts: one.promptExperts }, info),
  priority: 0,
  deadlineMs: one.arrivalMs + PATIENCE_MS,
}));
const predicted = simulateFleet(jobs, {
  numWorkers: numMachines,
  worker: {
    layout: { numExperts: info.experts.length, layerBytes: [1] },
    budgetBytes: info.experts.length,
    cost,
    scheduler: costAware(),
    limits: { maxNumBatchedSeqs: PLACES, maxNumBatchedTokens: 512, chunkTokens: 128 },
    maxNumSeqs: PLACES,
    kvTokens: info.kvCapacityTokens / numMachines,
  },
  placement: { kind: "pull" },
  perTokenMs: Infinity,
});
const firsts = done.map(({ arrivalMs, firstMs }) => firstMs - arrivalMs);
const perToken = done.map(({ firstMs, lastMs }) => (lastMs - firstMs) / (maxTokens - 1));
const rows = [
  ["first token p50, ms", percentile(firsts, 50), predicted.firstTokenP50Ms],
  ["first token p95, ms", percentile(firsts, 95), predicted.firstTokenP95Ms],
  ["per token p50, ms", percentile(perToken, 50), predicted.perTokenP50Ms],
  ["per token p95, ms", percentile(perToken, 95), predicted.perTokenP95Ms],
  ["whole answer, mean, ms", mean(done.map(({ arrivalMs, lastMs }) => lastMs - arrivalMs)), predicted.answerMeanMs],
  ["tokens of the busiest / mean", Math.max(...tokensOf) / mean(tokensOf), predicted.busiestOverMean],
] as const;
const title = `${numMachines} machines, ${rate} requests/s of ${maxTokens} tokens, ${done.length} requests`;
const cells = rows.map(([name, real, simulated]) => [
  name,
  real.toFixed(2),
  simulated.toFixed(2),
  (real / simulated).toFixed(2),
]);
console.log(markdownTable({ title, columns: ["", "real", "simulated", "ratio"], rows: cells }));
console.log(`steps cost ${JSON.stringify(cost)}; experts a step, simulated: ${predicted.distinctExperts.toFixed(2)}`);
await front.dispose();
await Promise.all(machines.map(killMachine));
await valkey.stop();
