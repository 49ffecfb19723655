// Clients whose grammars are costly to compile, over real connections: other clients do not wait for them.

import { monitorEventLoopDelay } from "node:perf_hooks";
import { ReadMeEmitter } from "@readme-moe/core";
import type { ReadMeEngine } from "@readme-moe/engine";
import { Admission, readMe } from "@readme-moe/express";
import express from "express";
import { afterAll, beforeAll, expect, test } from "vitest";
import { HOSTILE_SCHEMAS } from "../support/hostile-schemas.ts";
import { postJson } from "../support/post-json.ts";
import { seededRandom } from "../support/random.ts";
import { listen, openTinyEngine, type RunningServer } from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const MAX_DELAY_MS = 500;
const NUM_SLOW = 12;
const KEYS = { mallory: "sk-mallory", ann: "sk-ann" };
const folder = await persistentFolder();
const events = new ReadMeEmitter();
const admission = new Admission({ events });
let engine: ReadMeEngine;
let server: RunningServer;
let url: string;

beforeAll(async () => {
  engine = await openTinyEngine(folder, {}, { config: { max_position_embeddings: 2048 } });
  const app = express();
  // With an hour per grammar, slow ones do not end by themselves.
  const grammars = { maxCompileMs: 3_600_000 };
  app.use(readMe.api({ models: { tiny: engine }, admission, events, keys: KEYS, grammars }));
  server = await listen(app);
  url = `${server.url}/v1/chat/completions`;
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  await engine.dispose();
});

const messages = [{ role: "user", content: "Hello" }];
const bound = (schema: unknown) => ({
  messages,
  max_tokens: 20,
  response_format: { type: "json_schema", json_schema: { name: "x", schema } },
});
const called = (parameters: readonly unknown[], more: object = {}) => ({
  messages,
  max_tokens: 20,
  tools: parameters.map((one, index) => ({ type: "function", function: { name: `f${index}`, parameters: one } })),
  ...more,
});
const headersOf = (key: keyof typeof KEYS) => ({ authorization: `Bearer ${KEYS[key]}` });
const slow = (index: number) => ({ type: "string", pattern: `((a{1,512}${index}){1,512}){1,512}` });

test("slow grammars delay no other client, and free their places when their client leaves", async () => {
  const controller = new AbortController();
  let numAdmitted = 0;
  const allAdmitted = new Promise<void>((resolve) => {
    events.on("request:admitted", () => {
      if (++numAdmitted === NUM_SLOW) resolve();
    });
  });
  const asked = Array.from({ length: NUM_SLOW }, async (_, index) => {
    const body = JSON.stringify(
      index % 2 === 0 ? bound(slow(index)) : called([slow(index)], { tool_choice: "required" }),
    );
    const headers = { "content-type": "application/json", ...headersOf("mallory") };
    return fetch(url, { method: "POST", headers, body, signal: controller.signal }).then(
      () => "answered",
      () => "gone",
    );
  });
  await allAdmitted;
  expect(admission.stats.requests).toBe(NUM_SLOW);
  const { status, body } = await postJson(url, bound({ type: "boolean" }), headersOf("ann"));
  expect(status).toBe(200);
  const [choice] = body["choices"] as { message: { content: string } }[];
  expect(["true", "false"]).toContain(choice?.message.content);

  let numReleased = 0;
  const allReleased = new Promise<void>((resolve) => {
    events.on("request:released", () => {
      if (++numReleased === NUM_SLOW) resolve();
    });
  });
  controller.abort();
  expect(await Promise.all(asked)).toEqual(asked.map(() => "gone"));
  await allReleased;
  expect(admission.stats).toMatchObject({ requests: 0, tokens: 0, bytes: 0, waiting: 0 });
  // A grammar that was still being compiled would delay the next one of the same client.
  const again = await postJson(url, bound({ type: "null" }), headersOf("mallory"));
  expect(again.status).toBe(200);
});

const nested = (depth: number): string => `${'{"a":'.repeat(depth)}1${"}".repeat(depth)}`;
const seeded = (name: keyof typeof HOSTILE_SCHEMAS, size: number): unknown =>
  HOSTILE_SCHEMAS[name]?.(size, seededRandom(1));

const wide = (numKeys: number): string =>
  `{${Array.from({ length: numKeys }, (_, index) => `"k${index}":1`).join(",")}}`;

const attacks: Readonly<Record<string, () => string>> = {
  "two enums of 80,000": () => JSON.stringify(bound(seeded("two large enums, one of both", 80_000))),
  "300 enums of 300": () => JSON.stringify(bound(seeded("many enums, one of all", 90_000))),
  "300 alternatives of 300": () => JSON.stringify(bound(seeded("alternatives of alternatives", 90_000))),
  "objects that cannot be told apart": () =>
    JSON.stringify(bound(seeded("objects that all properties but the last do not tell apart", 10_000))),
  "a long pattern": () => JSON.stringify(bound(seeded("a long pattern", 200_000))),
  "a deep schema": () => JSON.stringify(bound("DEEP")).replace('"DEEP"', nested(100_000)),
  "a deep schema of a tool": () => JSON.stringify(called(["DEEP"])).replace('"DEEP"', nested(100_000)),
  "a deep schema of a tool that is not called": () =>
    JSON.stringify(called(["DEEP"], { tool_choice: "none" })).replace('"DEEP"', nested(100_000)),
  "a schema of 100,000 keys": () => JSON.stringify(bound("WIDE")).replace('"WIDE"', wide(100_000)),
  "a schema that is not valid": () => JSON.stringify(bound([{}])),
  "128 tools of 1,000 values": () =>
    JSON.stringify(called(Array.from({ length: 128 }, () => seeded("two large enums, one of both", 500)))),
};

/** @returns the answer, and the longest time for which the event loop was blocked */
async function postWatched(text: string) {
  const monitor = monitorEventLoopDelay({ resolution: 5 });
  monitor.enable();
  const headers = { "content-type": "application/json", ...headersOf("mallory") };
  const response = await fetch(url, { method: "POST", headers, body: text });
  monitor.disable();
  return { response, delayMs: monitor.max / 1e6 };
}

test.each(Object.entries(attacks))("%s: refused without blocking the event loop", async (_, make) => {
  const text = make();
  let { response, delayMs } = await postWatched(text);
  // A busy machine may block the event loop for as long once, but not every time.
  for (let tries = 1; delayMs >= MAX_DELAY_MS && tries < 20; tries++) ({ response, delayMs } = await postWatched(text));
  const body = (await response.json()) as { error: { type: string; message: string } };
  expect([response.status, body]).toMatchObject([400, { error: { type: "invalid_request_error" } }]);
  expect(body.error.message).not.toContain("call stack");
  expect(body.error.message.length).toBeLessThan(2_000);
  expect(delayMs).toBeLessThan(MAX_DELAY_MS);
  expect(admission.stats.requests).toBe(0);
});
