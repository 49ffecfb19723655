// Malformed bodies for the Responses API, the Messages API and Ollama's: each is refused in its API's shape, or answered.

import type { ReadMeEngine } from "@readme-moe/engine";
import { readMe } from "@readme-moe/express";
import express from "express";
import { afterAll, beforeAll, expect, test } from "vitest";
import { z } from "zod";
import { damaged } from "../../bench/fuzz/body-bytes.ts";
import { Chance } from "../../bench/fuzz/chance.ts";
import { message, response } from "../../bench/fuzz/chat-bodies.ts";
import { mutated } from "../../bench/fuzz/json-mutations.ts";
import { textOf, treeOf } from "../../bench/fuzz/json-tree.ts";
import { ollamaChat, ollamaGenerate } from "../../bench/fuzz/ollama-bodies.ts";
import { errorAnswer } from "../../packages/express/src/api/answer-schemas.ts";
import { messageAnswer, messagesBody, messagesError } from "../../packages/express/src/messages/schemas.ts";
import { ollamaChatBody, ollamaGenerateBody } from "../../packages/express/src/ollama/schemas.ts";
import { responseAnswer, responsesBody, withItemTypes } from "../../packages/express/src/responses/schemas.ts";
import { RUNS_LONG_TESTS } from "../support/long-tests.ts";
import { listen, openTinyEngine, type RunningServer } from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

// With `README_MOE_FUZZ_RUNS=2000`, thousands of bodies take some minutes.
const NUM_RUNS = Number(process.env["README_MOE_FUZZ_RUNS"] ?? (RUNS_LONG_TESTS ? 150 : 60));
const SEED = Number(process.env["README_MOE_FUZZ_SEED"] ?? 1);
const MODEL = { name: "tiny", vocabSize: 4096, fillsIn: false, experts: [] } as const;

const folder = await persistentFolder();
let engine: ReadMeEngine;
let server: RunningServer;

beforeAll(async () => {
  engine = await openTinyEngine(folder, {}, { config: { max_position_embeddings: 1024 } });
  // No valid body is refused because the machine is busy.
  const [grammars, admission] = [{ maxCompileMs: 300_000, maxMaskMs: 300_000 }, { maxQueueMs: 300_000 }];
  server = await listen(express().use(readMe({ models: { tiny: engine }, ollama: true, grammars, admission })));
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  await engine.dispose();
});

interface FuzzedApi {
  readonly path: string;
  readonly valid: (chance: Chance) => object;
  readonly error: z.ZodType;
  readonly answer: z.ZodType;
  readonly accepts: (body: unknown) => boolean;
}

const ollamaError = z.strictObject({ error: z.string().min(1) });
const ollamaAnswer = z.object({ model: z.string(), created_at: z.iso.datetime(), done: z.literal(true) });

const APIS: readonly FuzzedApi[] = [
  {
    path: "/api/chat",
    valid: (chance) => ollamaChat(chance, MODEL),
    error: ollamaError,
    answer: ollamaAnswer.extend({ message: z.object({ role: z.literal("assistant"), content: z.string() }) }),
    accepts: (body) => ollamaChatBody.safeParse(body).success,
  },
  {
    path: "/api/generate",
    valid: (chance) => ollamaGenerate(chance, MODEL),
    error: ollamaError,
    answer: ollamaAnswer.extend({ response: z.string() }),
    accepts: (body) => ollamaGenerateBody.safeParse(body).success,
  },
  {
    path: "/v1/responses",
    valid: (chance) => response(chance, MODEL),
    error: errorAnswer,
    answer: responseAnswer,
    accepts: (body) => responsesBody.safeParse(withItemTypes(body)).success,
  },
  {
    path: "/v1/messages",
    valid: (chance) => message(chance, MODEL),
    error: messagesError,
    answer: messageAnswer,
    accepts: (body) => messagesBody.safeParse(body).success,
  },
];

async function post(path: string, body: Buffer): Promise<{ status: number; type: string; text: string }> {
  const headers = { "content-type": "application/json" };
  const answer = await fetch(`${server.url}${path}`, { method: "POST", headers, body: new Uint8Array(body) });
  return { status: answer.status, type: answer.headers.get("content-type") ?? "", text: await answer.text() };
}

function isAccepted(api: FuzzedApi, body: Buffer): boolean {
  try {
    // The server skips a byte order mark, as the decoder does.
    return api.accepts(JSON.parse(new TextDecoder().decode(body)));
  } catch {
    return false;
  }
}

test.each(APIS)(`$path answers or refuses ${NUM_RUNS} malformed bodies`, { timeout: 1_200_000 }, async (api) => {
  const statuses = new Map<number, number>();
  for (let run = 0; run < NUM_RUNS; run++) {
    const chance = Chance.ofCase(SEED, run);
    const good = api.valid(chance);
    const isJson = chance.happens(0.7);
    const body = isJson
      ? Buffer.from(textOf(mutated(treeOf(good), chance)))
      : damaged(Buffer.from(JSON.stringify(good)), chance);
    const what = `run ${run}: ${body.toString("latin1").slice(0, 1000)}`;
    const { status, type, text } = await post(api.path, body);
    statuses.set(status, (statuses.get(status) ?? 0) + 1);
    expect([200, 400, 404, 413], `${what}\n${text.slice(0, 500)}`).toContain(status);
    if (status === 200) {
      expect(isAccepted(api, body), what).toBe(true);
      if (type.startsWith("application/json")) api.answer.parse(JSON.parse(text));
      continue;
    }
    api.error.parse(JSON.parse(text));
    expect(text, what).not.toMatch(/node_modules|node:internal|file:\/\/|\.[cm]?[jt]s:\d+|\\n\s+at /);
    expect(text.length, what).toBeLessThan(4096);
  }
  expect(statuses.get(400)).toBeGreaterThan(NUM_RUNS / 4);
  expect(statuses.get(200)).toBeGreaterThan(NUM_RUNS / 50);
  await expect.poll(() => engine.stats()).toMatchObject({ numRunning: 0, numWaiting: 0, kvUsedTokens: 0 });
});

test.each(APIS)("$path answers valid bodies", { timeout: 600_000 }, async (api) => {
  for (let run = 0; run < NUM_RUNS / 3; run++) {
    const body = Buffer.from(JSON.stringify(api.valid(Chance.ofCase(SEED + 1, run))));
    const { status, type, text } = await post(api.path, body);
    expect(status, `${body.toString()}\n${text}`).toBe(200);
    if (type.startsWith("application/json")) api.answer.parse(JSON.parse(text));
  }
});
