// Sends generated requests, valid and damaged, to a real server, and checks every answer.
//
//   pnpm bench:fuzz [model] [--requests 100000] [--seed 1] [--concurrency 16] [--first 0] [--heap-mb 512]
//     [--folder FOLDER] [--replay FILE] [--experts]
//
// With `--experts`, the model, which has to be dense, has low-rank experts, and an operator loads others.
// The seed determines every case. Failed cases are stored in the folder; `--replay` sends one again, alone.

import { fork } from "node:child_process";
import { once } from "node:events";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { percentile } from "../kit/statistics.ts";
import { slope, verdict, verdictOf } from "../express/figures.ts";
import { stuckGauges } from "../express/gauges.ts";
import { batchesFolder, serve, type Served } from "../hostile/served.ts";
import { NO_ADAPTERS, writeAdapters } from "./adapters.ts";
import { caseOf } from "./cases.ts";
import { documentedCodes } from "./documented.ts";
import { described, fromJson, toJson, type FuzzCase } from "./fuzz-case.ts";
import { decidedAnswer, type KeptAnswer } from "./kept-answers.ts";
import { judge, rulesOf } from "./judge.ts";
import { plainAnswers } from "./plain-requests.ts";
import type { ProbeReport } from "./probe.ts";
import { Tally } from "./run-report.ts";
import { sendCase } from "./send-case.ts";
import { storeAll, type StoringModel } from "./stored.ts";
import { withTemplate } from "./template-model.ts";

const SAMPLE_MS = 2000;
/** Memory is the minimum of this many samples: garbage that is not collected yet is not growth. */
const SAMPLES_A_VALUE = 5;
const MAX_GROWTH_PERCENT = 10;
const SLOW_MS = 200;
const MAX_TOLD = 30;
const MAX_KEPT = 200;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    requests: { type: "string", default: "100000" },
    seed: { type: "string", default: "1" },
    concurrency: { type: "string", default: "16" },
    first: { type: "string", default: "0" },
    "heap-mb": { type: "string", default: "512" },
    folder: { type: "string", default: join(tmpdir(), "readme-moe-fuzz") },
    replay: { type: "string" },
    experts: { type: "boolean", default: false },
  },
});
const [seed, numRequests] = [Number(values.seed), Number(values.requests)];
await using template = await withTemplate(positionals[0] ?? "models/pocket");
await using adapters = values.experts ? await writeAdapters(template.path) : NO_ADAPTERS;
await using batches = await batchesFolder();
await using server = await serve(template.path, Number(values["heap-mb"]), [
  "--ollama",
  ...adapters.flags,
  ...batches.flags,
]);
await adapters.loadLasting(server.url);
const rules = rulesOf(documentedCodes(), [resolve(template.path), batches.path, ...adapters.secrets]);
const tally = new Tally();
const kept: KeptAnswer[] = [];

if (values.replay !== undefined) await replay(fromJson(await readFile(values.replay, "utf8")));
else await fuzz();

async function replay(one: FuzzCase): Promise<void> {
  const received = await sendCase(server.port, one);
  console.log(received.bytes.toString("latin1").slice(0, 4000));
  const { problems } = judge(one, received, rules);
  console.log(`${described(one)}: ${problems.join("; ") || "no problem"}`);
  if (problems.length > 0) process.exitCode = 1;
}

async function fuzz(): Promise<void> {
  const model = await knownModel(server.url, template.path);
  const before = await plainAnswers(server.url);
  const processes = await server.processes();
  const probe = fork(join(import.meta.dirname, "probe.ts"), [String(server.port)]);
  const bytes: number[] = [];
  const sampling = setInterval(() => void server.memory().then((now) => bytes.push(now)), SAMPLE_MS);
  const startMs = performance.now();
  let next = Number(values.first);
  const goOn = async (): Promise<void> => {
    // oxlint-disable-next-line no-await-in-loop -- each of several lanes sends one case after the other
    while (tally.requests < numRequests && server.isAlive()) await tryCase(caseOf(seed, next++, model));
  };
  const telling = setInterval(() => console.log(`${tally.requests} requests, failed: ${tally.failed}`), 30_000);
  await Promise.all(Array.from({ length: Number(values.concurrency) }, goOn));
  clearInterval(telling);
  clearInterval(sampling);
  probe.send("report");
  const [{ timesMs, failures }] = (await once(probe, "message")) as [ProbeReport];
  probe.kill();
  const seconds = (performance.now() - startMs) / 1000;
  console.log(
    `\nseed ${seed}, cases ${values.first} to ${next - 1}, ${tally.requests} requests in ${seconds.toFixed(0)} s`,
  );
  for (const line of tally.lines()) console.log(line);
  await conclude(bytes, { timesMs, failures }, { before, processes });
}

async function tryCase(one: FuzzCase): Promise<void> {
  const received = await sendCase(server.port, one);
  const judged = judge(one, received, rules);
  tally.add(one, judged);
  const choices = kept.length < MAX_KEPT ? decidedAnswer(one, received.bytes) : undefined;
  if (choices !== undefined) kept.push({ of: one, choices });
  if (judged.problems.length === 0) return;
  const file = join(values.folder, `case-${one.seed}-${one.index}.json`);
  await mkdir(values.folder, { recursive: true });
  await writeFile(file, toJson(one, { problems: judged.problems }));
  if (tally.failed <= MAX_TOLD) console.log(`${described(one)}: ${judged.problems.join("; ")}\n   ${file}`);
}

/** Finds cases whose answer differs when they are sent alone. */
async function changedAnswers(): Promise<readonly FuzzCase[]> {
  const changed: FuzzCase[] = [];
  for (const { of, choices } of kept) {
    // oxlint-disable-next-line no-await-in-loop -- each alone
    const { bytes } = await sendCase(server.port, of);
    if (decidedAnswer(of, bytes) !== choices) changed.push(of);
  }
  return changed;
}

interface AtFirst {
  readonly before: string;
  readonly processes: readonly number[];
}

async function conclude(
  bytes: readonly number[],
  { timesMs, failures }: ProbeReport,
  { before, processes }: AtFirst,
): Promise<void> {
  const isAlive = server.isAlive();
  const stuck = isAlive ? await stuckGauges(server.url) : ["dead"];
  const same = isAlive && (await plainAnswers(server.url)) === before;
  const changed = isAlive ? await changedAnswers() : [];
  for (const one of changed.slice(0, MAX_TOLD)) console.log(`different answer when sent alone: ${described(one)}`);
  const now = isAlive ? await server.processes() : [];
  const slow = timesMs.filter((ms) => ms > SLOW_MS).length;
  console.log(
    `/livez: ${timesMs.length} times, p99 ${timesMs.length > 0 ? percentile(timesMs, 99).toFixed(0) : "?"} ms, most ${Math.max(0, ...timesMs).toFixed(0)} ms, above ${SLOW_MS} ms: ${slow}`,
  );
  const isMet = [
    verdictOf(
      `every answer is allowed${tally.failed > 0 ? `, except in ${tally.failed} cases` : ""}`,
      tally.failed === 0,
    ),
    verdictOf(`server and engine are the same processes`, isAlive && String(now) === String(processes)),
    verdictOf(
      `/livez always answers${failures.length > 0 ? `, but ${failures.length} times (${failures[0]})` : ""}`,
      failures.length === 0,
    ),
    verdictOf("right requests get the same answers as before", same),
    verdictOf(
      `deterministic answers that differ when sent alone: ${changed.length} of ${kept.length}`,
      changed.length === 0,
    ),
    verdictOf(`all gauges are 0${stuck.length > 0 ? `, but ${stuck.join(", ")}` : ""}`, stuck.length === 0),
    judgeMemory(bytes),
  ].every(Boolean);
  if (!isMet) process.exitCode = 1;
}

/** Computes growth over the second half by the least-squares slope. */
function judgeMemory(bytes: readonly number[]): boolean {
  const least: number[] = [];
  for (let start = 0; start + SAMPLES_A_VALUE <= bytes.length; start += SAMPLES_A_VALUE) {
    least.push(Math.min(...bytes.slice(start, start + SAMPLES_A_VALUE)));
  }
  const second = least.slice(Math.floor(least.length / 2));
  console.log(`memory, MB: ${least.map((each) => (each / 1e6).toFixed(0)).join(" ")}`);
  if (second.length < 4) {
    console.log("the run is too short to judge memory");
    return true;
  }
  const growth = (100 * slope(second) * (second.length - 1)) / (second[0] ?? NaN);
  return verdict("memory grew in the second half by", growth, "%", MAX_GROWTH_PERCENT);
}

interface Listed {
  readonly id: string;
  readonly parent: string | null;
}

async function knownModel(url: Served["url"], path: string): Promise<StoringModel> {
  const { data } = (await (await fetch(`${url}/v1/models`)).json()) as { data: readonly Listed[] };
  const config = JSON.parse(await readFile(join(path, "config.json"), "utf8")) as { vocab_size?: number };
  const [first] = data;
  if (first === undefined || config.vocab_size === undefined)
    throw new Error(`Expected a model with a vocabulary at ${path}`);
  const { id: name } = first;
  const experts = data.flatMap(({ id, parent }) => (parent === name ? [id.slice(name.length + 1)] : []));
  const { operatorKey } = adapters;
  const stored = await storeAll(server.port);
  const gap = JSON.stringify({ input_prefix: "The", input_suffix: "was", n_predict: 1 });
  const headers = { "content-type": "application/json" };
  const fillsIn = (await fetch(`${url}/infill`, { method: "POST", headers, body: gap })).status === 200;
  return {
    name,
    vocabSize: config.vocab_size,
    fillsIn,
    experts,
    stored,
    ...(operatorKey === undefined ? {} : { operatorKey }),
  };
}
