// Timings of answers, over a scripted engine.

import type { Usage } from "@readme-moe/core";
import { expect, test } from "vitest";
import { postJson } from "../support/post-json.ts";
import { chunkOf, chunksInTurns, serveScripted, USAGE } from "../support/scripted-engine.ts";

type Figures = Readonly<Record<string, number | null>>;
interface Timed {
  readonly timings: Figures;
  readonly read_me: { readonly timings: Figures };
}

/** Asks for timings. @returns them with the time that the client waited */
async function timed(usage: Usage) {
  const url = await serveScripted(chunksInTurns(chunkOf(0, "a"), chunkOf(0, "b", { finishReason: "length", usage })));
  const startMs = performance.now();
  const { body } = await postJson(url, { prompt: "x", read_me: { include: ["timings"] } });
  const waitedMs = performance.now() - startMs;
  const { timings, read_me } = body as unknown as Timed;
  return { timings, own: read_me.timings, waitedMs };
}

test("timings divide the time of a request into queue, prefill and decoding", async () => {
  const { timings, own, waitedMs } = await timed(USAGE);
  const [promptMs, predictedMs] = [timings["prompt_ms"] ?? -1, timings["predicted_ms"] ?? -1];
  expect(Math.min(promptMs, predictedMs)).toBeGreaterThan(0);
  expect(promptMs + predictedMs).toBeLessThanOrEqual(waitedMs);
  expect(own).toEqual({ queue_ms: 0, prefill_ms: promptMs, decode_ms: predictedMs });
  expect(timings).toEqual({
    cache_n: 4,
    prompt_n: 6,
    prompt_ms: promptMs,
    prompt_per_token_ms: promptMs / 6,
    prompt_per_second: 6000 / promptMs,
    predicted_n: 3,
    predicted_ms: predictedMs,
    predicted_per_token_ms: predictedMs / 3,
    predicted_per_second: 3000 / predictedMs,
  });
});

test("timings count no longer in the queue than until the first token", async () => {
  const { timings, own, waitedMs } = await timed({ ...USAGE, queuedMs: 1e9 });
  expect(own["queue_ms"]).toBeGreaterThan(0);
  expect(own["queue_ms"]).toBeLessThanOrEqual(waitedMs);
  expect(own).toMatchObject({ prefill_ms: 0 });
  expect(timings).toMatchObject({ prompt_ms: 0, prompt_per_token_ms: 0, prompt_per_second: null });
});

test("timings have no rate of no tokens", async () => {
  const { timings } = await timed({
    promptTokens: 5,
    completionTokens: 0,
    cachedTokens: 5,
    acceptedDraftTokens: 0,
    rejectedDraftTokens: 0,
    queuedMs: 0,
  });
  expect(timings).toMatchObject({
    cache_n: 5,
    prompt_n: 0,
    prompt_per_token_ms: null,
    prompt_per_second: 0,
    predicted_n: 0,
    predicted_per_token_ms: null,
    predicted_per_second: 0,
  });
});
