// Events only observe: a server works the same when every event is dropped.

import { ReadMeEmitter } from "@readme-moe/core";
import type { ReadMeEngine } from "@readme-moe/engine";
import { Admission, readMe, ServedModels } from "@readme-moe/express";
import express from "express";
import { expect, onTestFinished, test } from "vitest";
import { postJson } from "../support/post-json.ts";
import { listen, openTinyEngine } from "../support/served-model.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

class DroppingEmitter extends ReadMeEmitter {
  override emit(): boolean {
    return true;
  }
}

interface Observed {
  readonly statuses: readonly number[];
  readonly texts: readonly unknown[];
  readonly usages: readonly unknown[];
  readonly remainingTokens: string | null;
  readonly othersTokens: readonly (readonly number[])[];
  readonly requestsAtEnd: number;
}

async function observe(engine: ReadMeEngine, events: ReadMeEmitter): Promise<Observed> {
  const othersTokens: (readonly number[])[] = [];
  const admission = new Admission({ events, policy: (about) => void othersTokens.push(about.othersTokens) });
  const models = new ServedModels({ tiny: engine }, { events, restart: { firstDelayMs: 0 } });
  const app = express().use(readMe({ models, admission, events, tokensPerMinute: 10_000 }));
  const server = await listen(app);
  onTestFinished(() => server[Symbol.asyncDispose]());
  const body = { temperature: 0, max_tokens: 5, ignore_eos: true };
  const url = `${server.url}/v1/completions`;
  const answers = [await postJson(url, { ...body, prompt: ["The ship was", "One"], n: 2 })];
  answers.push(await postJson(url, { ...body, prompt: [] }));
  const failed = engine.whenFailed();
  engine.kill();
  await failed;
  while (models.states()[0]?.state !== "ready") await new Promise((resolve) => setImmediate(resolve));
  answers.push(await postJson(url, { ...body, prompt: "Again" }));
  const last = await fetch(url, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...body, prompt: "x", stream: true, stream_options: { include_usage: true } }),
  });
  const stream = await last.text();
  return {
    statuses: [...answers.map(({ status }) => status), last.status],
    texts: [
      ...answers.map((answer) => (answer.body["choices"] as { text: string }[] | undefined)?.map(({ text }) => text)),
      stream.match(/"text":"[^"]*"/g),
    ],
    usages: [...answers.map((answer) => answer.body["usage"]), /"usage":\{.*?\}\}/.exec(stream)?.[0]],
    remainingTokens: last.headers.get("x-ratelimit-remaining-tokens"),
    othersTokens,
    requestsAtEnd: admission.stats.requests,
  };
}

test("answers, usage, rate limits, admission and restarts are the same when every event is dropped", async () => {
  const options = { isolation: "process", prefixCacheBytes: 0 } as const;
  const heard = await openTinyEngine(await temporaryFolder(), options);
  const unheard = await openTinyEngine(await temporaryFolder(), options);
  onTestFinished(async () => {
    await Promise.all([heard.dispose(), unheard.dispose()]);
  });
  unheard.events.emit = () => true;
  const expected = await observe(heard, new ReadMeEmitter());
  expect(expected.statuses).toEqual([200, 400, 200, 200]);
  expect(await observe(unheard, new DroppingEmitter())).toEqual(expected);
});
