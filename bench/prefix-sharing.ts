// Time to the first token over HTTP behind a long beginning that the same key, another key or nobody has sent before,
// with and without sharing between keys.
//
//   node --conditions=@readme-moe/source --import tsx bench/prefix-sharing.ts [model] [tokens] [rounds]

import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { ReadMeEngine } from "@readme-moe/engine";
import { readMe, type CacheSharing } from "@readme-moe/express";
import express from "express";
import { median } from "./kit/statistics.ts";

const [model = "smollm2:135m", tokens = "1000", rounds = "10"] = process.argv.slice(2);
const KEYS = { owner: "sk-owner", other: "sk-other" };
const WORDS = " The captain of the ship knew that the harbour was near, and asked the pilot for the chart.";

interface Answered {
  readonly firstTokenMs: number;
  readonly cachedTokens: number;
}

/** Sends a prompt, and reads the stream to its end. */
async function ask(url: string, key: string, prompt: readonly number[]): Promise<Answered> {
  const startMs = performance.now();
  const response = await fetch(`${url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${key}` },
    body: JSON.stringify({ prompt, max_tokens: 1, stream: true, stream_options: { include_usage: true } }),
  });
  const decoder = new TextDecoder();
  let [text, firstTokenMs] = ["", 0];
  for await (const bytes of response.body ?? []) {
    text += decoder.decode(bytes, { stream: true });
    if (firstTokenMs === 0 && text.includes("data: ")) firstTokenMs = performance.now() - startMs;
  }
  const cached = /"cached_tokens":(\d+)/.exec(text)?.[1];
  if (!response.ok || cached === undefined) throw new Error(`Expected an answer with usage, got ${text}`);
  return { firstTokenMs, cachedTokens: Number(cached) };
}

/** Measures each case `rounds` times, with a new beginning in each round. */
async function measure(engine: ReadMeEngine, cacheSharing: CacheSharing): Promise<void> {
  const server = express()
    .use(readMe({ engine, keys: KEYS, cacheSharing }))
    .listen(0, "127.0.0.1");
  await once(server, "listening");
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const cases: Record<string, Answered[]> = { "own beginning": [], "another key's beginning": [], "new beginning": [] };
  for (let round = 0; round < Number(rounds); round++) {
    const promptOf = async (name: string): Promise<readonly number[]> => {
      const text = `${name} ${round} ${cacheSharing}.${WORDS.repeat(Math.ceil(Number(tokens) / 15))}`;
      return Array.from(await engine.tokenize(text)).slice(0, Number(tokens));
    };
    const prompt = await promptOf("first");
    await ask(url, KEYS.owner, prompt);
    cases["own beginning"]?.push(await ask(url, KEYS.owner, prompt));
    cases["another key's beginning"]?.push(await ask(url, KEYS.other, prompt));
    cases["new beginning"]?.push(await ask(url, KEYS.other, await promptOf("second")));
  }
  server.close();
  server.closeAllConnections();
  for (const [name, answers] of Object.entries(cases)) {
    const ms = median(answers.map(({ firstTokenMs }) => firstTokenMs));
    const cached = median(answers.map(({ cachedTokens }) => cachedTokens));
    console.log(`${cacheSharing} | ${name} | ${ms.toFixed(1)} ms | ${cached} tokens cached`);
  }
}

await using engine = await ReadMeEngine.open(model, { precision: "int8" });
console.log(`${model}, ${tokens} tokens, first token, median of ${rounds}`);
for (const cacheSharing of ["client", "all"] as const) await measure(engine, cacheSharing);
