// Time to the first token of gaps in a file while someone types: each key asks again, and most requests are cancelled by
// the next one.
//
//   npm run bench:fill-in -- --model FILE [--keys 100] [--lines 80] [--pause 50]

import { once } from "node:events";
import { readFile } from "node:fs/promises";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { ReadMeEngine } from "@readme-moe/engine";
import { readMe } from "@readme-moe/express";
import express from "express";
import { percentile } from "./kit/statistics.ts";

const { values } = parseArgs({
  options: {
    model: { type: "string" },
    keys: { type: "string", default: "100" },
    lines: { type: "string", default: "80" },
    pause: { type: "string", default: "50" },
  },
});
const { model } = values;
if (model === undefined) throw new TypeError("Expected --model to name a model with marks to fill in the middle");
const [numKeys, numLines, pauseMs] = [Number(values.keys), Number(values.lines), Number(values.pause)];

/** The file that is typed in: what stands before the cursor, what is typed, and what stands behind. */
const text = await readFile(join(import.meta.dirname, "kit", "statistics.ts"), "utf8");
const lines = text.repeat(Math.ceil((2 * numLines) / text.split("\n").length) + 1).split("\n");
const linesFrom = (start: number, count: number): string => lines.slice(start, start + count).join("\n");
const [before, behind] = [linesFrom(0, numLines), linesFrom(numLines + 20, Math.ceil(numLines / 4))];
const typed = linesFrom(numLines, lines.length);

interface Answered {
  /** Time to the first token, if it came before the next key. */
  readonly firstTokenMs: number | undefined;
  readonly wasCancelled: boolean;
}

/** Asks for what follows, until the next key. @param isLast - whether no key follows, and the answer is read */
async function press(url: string, middle: string, isLast: boolean): Promise<Answered> {
  const leave = new AbortController();
  const nextKey = isLast ? undefined : sleep(pauseMs).then(() => leave.abort());
  const startMs = performance.now();
  let firstTokenMs: number | undefined;
  try {
    const response = await fetch(`${url}/infill`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ input_prefix: before, prompt: middle, input_suffix: behind, n_predict: 32, stream: true }),
      signal: leave.signal,
    });
    for await (const _ of response.body ?? []) firstTokenMs ??= performance.now() - startMs;
  } catch (error) {
    if (!leave.signal.aborted) throw error;
  }
  await nextKey;
  return { firstTokenMs, wasCancelled: leave.signal.aborted };
}

await using engine = await ReadMeEngine.open(model);
const server = express().use(readMe({ engine })).listen(0, "127.0.0.1");
await once(server, "listening");
const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
const prompt = await engine.tokenize({ prefix: before, suffix: behind });
const firstMs: number[] = [];
let numAnswered = 0;
const startMs = performance.now();
for (let key = 0; key < numKeys; key++) {
  // Every tenth key is followed by a pause, in which the answer is read.
  const { firstTokenMs, wasCancelled } = await press(url, typed.slice(0, key + 1), key % 10 === 9);
  if (firstTokenMs !== undefined) firstMs.push(firstTokenMs);
  if (!wasCancelled) numAnswered++;
}
const seconds = (performance.now() - startMs) / 1000;
const { cachedTokens, promptTokens, numRunning, kvUsedTokens } = await engine.stats();
server.close();
server.closeAllConnections();
console.log(`${model}: ${prompt.length} tokens in the first prompt, ${numKeys} keys, ${pauseMs} ms apart`);
for (const percent of [50, 95]) {
  console.log(`first token, p${percent}: ${percentile(firstMs, percent).toFixed(0)} ms of ${firstMs.length} requests`);
}
console.log(
  `${numAnswered} whole answers in ${seconds.toFixed(1)} s; ${cachedTokens} of ${promptTokens} prompt tokens cached`,
);
console.log(`left: ${numRunning} running, ${kvUsedTokens} tokens of KV memory`);
