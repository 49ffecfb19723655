// Runs hostile clients beside well-behaved ones against a real server with keys and a small heap. Prints a line for each
// attack, then runs all of them mixed.
//
//   pnpm bench:hostile [model] [--seconds 15] [--mixed-minutes 0] [--seed 1] [--heap-mb 512] [--only 3,4]

import { setTimeout as sleep } from "node:timers/promises";
import { fork } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { median, percentile } from "../kit/statistics.ts";
import { stuckGauges } from "../express/gauges.ts";
import { ATTACKS } from "./attacks.ts";
import type { Order } from "./attacker.ts";
import { withTemplate } from "../fuzz/template-model.ts";
import { batchForm, call, HOSTILE_KEYS, WITNESS_KEY } from "./hostile-http.ts";
import { batchesFolder, serve, type Served } from "./served.ts";
import { witness, type Testimony } from "./witnesses.ts";

const MAX_LIVEZ_MS = 100;
const MAX_SLOWDOWN = 2;
const MAX_GROWTH = 1.1;
const SETTLING_MS = 30_000;
const HOSTILE_ADDRESS = "127.0.0.2";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    seconds: { type: "string", default: "15" },
    "mixed-minutes": { type: "string", default: "0" },
    seed: { type: "string", default: "1" },
    "heap-mb": { type: "string", default: "512" },
    only: { type: "string" },
  },
});
const chosen = values.only?.split(",").map(Number);
const attacks = ATTACKS.map((_, index) => index).filter((index) => chosen === undefined || chosen.includes(index + 1));
const attacker = fork(join(import.meta.dirname, "attacker.ts"));
await using template = await withTemplate(positionals[0] ?? "models/pocket");
const keys = ["--api-key", WITNESS_KEY, ...HOSTILE_KEYS];
await using batches = await batchesFolder();
await using server = await serve(template.path, Number(values["heap-mb"]), [...keys, ...batches.flags]);

// Attacks are compared with memory and speed of a server that was full of well-behaved requests of each kind.
await Promise.all(Array.from({ length: 64 }, (_, index) => longAnswer(index)));
for (let index = 0; index < 2; index++) await largeUse();
const usual = await attended(5, 3);
const usualMs = median(usual.answersMs);
const usualBytes = await server.memory();
console.log(
  `usual: 32 tokens in ${usualMs.toFixed(0)} ms, /livez p99 ${percentile(usual.livezMs, 99).toFixed(1)} ms, ${mb(usualBytes)} MB`,
);

let numMissed = 0;
for (const attack of attacks) await report(ATTACKS[attack]?.name ?? "", Number(values.seconds), [attack]);
const mixedSeconds = Number(values["mixed-minutes"]) * 60;
if (mixedSeconds > 0) await report(`all of them mixed, seed ${values.seed}`, mixedSeconds, attacks);
attacker.kill();
console.log(numMissed === 0 ? "All held." : `Not held: ${numMissed}.`);
process.exitCode = numMissed === 0 ? 0 : 1;

/** Sends one of the requests that fill the server's places and its memory for keys and values, kept prefixes included. */
async function longAnswer(index: number): Promise<void> {
  const prompt = `${index} ships were there. `.repeat(60);
  const body = JSON.stringify({ prompt, max_tokens: 300, ignore_eos: true, seed: index });
  await (
    await fetch(`${server.url}/v1/completions`, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: `Bearer ${WITNESS_KEY}` },
      body,
    })
  ).text();
}

/** Sends the largest requests that a well-behaved client may send, and removes what they have stored. */
async function largeUse(): Promise<void> {
  const target = { port: server.port, from: "127.0.0.1" };
  const patience = AbortSignal.timeout(120_000);
  const send = (path: string, body: string | FormData): ReturnType<typeof call> =>
    call(target, { path, body, key: WITNESS_KEY }, patience);
  const remove = (path: string): ReturnType<typeof call> =>
    call(target, { method: "DELETE", path, key: WITNESS_KEY }, patience);
  const input = Array.from({ length: 4000 }, () => ({ role: "user", content: "a" }));
  const long = { input, truncation: "auto", max_output_tokens: 16 };
  const wide = { prompt: "x", n: 32, max_tokens: 1000, logprobs: 20, ignore_eos: true };
  const [response, file] = await Promise.all([
    send("/v1/responses", JSON.stringify(long)),
    send("/v1/files", batchForm("{}\n".repeat(2_000_000))),
    send("/v1/completions", JSON.stringify(wide)),
  ]);
  await remove(`/v1/responses/${String(response.json["id"])}`);
  await remove(`/v1/files/${String(file.json["id"])}`);
}

/** Measures for some seconds, beside attacks if given. @param warmUpAnswers - answers that are not counted */
async function attended(seconds: number, warmUpAnswers: number, order?: readonly number[]): Promise<Testimony> {
  const controller = new AbortController();
  const watching = witness(server.port, controller.signal);
  if (order === undefined) await sleep(seconds * 1000);
  else {
    const target = { port: server.port, from: HOSTILE_ADDRESS };
    attacker.send({ target, attacks: order, seconds, seed: Number(values.seed) } satisfies Order);
    await once(attacker, "message");
  }
  controller.abort();
  const testimony = await watching;
  return { ...testimony, answersMs: testimony.answersMs.slice(warmUpAnswers) };
}

async function report(name: string, seconds: number, order: readonly number[]): Promise<void> {
  let peakBytes = 0;
  const sampling = setInterval(
    () => void server.memory().then((bytes) => (peakBytes = Math.max(peakBytes, bytes))),
    200,
  );
  const { answersMs, livezMs, failures } = await attended(seconds, 0, order);
  clearInterval(sampling);
  const isAlive = server.isAlive();
  const stuck = isAlive ? await stuckGauges(server.url) : ["dead"];
  const afterBytes = isAlive ? await settledBytes(server) : 0;
  const livezP99 = livezMs.length === 0 ? Infinity : percentile(livezMs, 99);
  const slowdown = answersMs.length === 0 ? Infinity : median(answersMs) / usualMs;
  const problems = [
    ...(isAlive ? [] : ["the process ended"]),
    ...(livezP99 > MAX_LIVEZ_MS ? ["/livez"] : []),
    ...(slowdown > MAX_SLOWDOWN ? ["answers"] : []),
    ...(afterBytes > MAX_GROWTH * usualBytes ? ["memory"] : []),
    ...(failures.length > 0 ? [`${failures.length} failures (${failures[0]})`] : []),
    ...(stuck.length > 0 ? [stuck.join(", ")] : []),
  ];
  numMissed += problems.length;
  const figures = [
    `/livez p99 ${livezP99.toFixed(0)} ms (most ${Math.max(...livezMs).toFixed(0)})`,
    `answers ${slowdown.toFixed(2)} times as long (${answersMs.length}, most ${(Math.max(...answersMs) / usualMs).toFixed(1)})`,
    `memory at most ${mb(peakBytes)}, after ${mb(afterBytes)} MB`,
  ];
  console.log(
    `${problems.length === 0 ? "held  " : "MISSED"} ${name}: ${figures.join("; ")}${problems.length > 0 ? `. Missed: ${problems.join("; ")}` : ""}`,
  );
}

/** Waits until memory no longer falls. @returns the remaining bytes */
async function settledBytes({ memory }: Served): Promise<number> {
  let least = Infinity;
  for (const endMs = performance.now() + SETTLING_MS; performance.now() < endMs;) {
    least = Math.min(least, await memory());
    if (least <= MAX_GROWTH * usualBytes) break;
    await sleep(500);
  }
  return least;
}

function mb(bytes: number): string {
  return (bytes / 1e6).toFixed(0);
}
