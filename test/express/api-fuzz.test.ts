// Damaged and hostile requests over real connections: refused in the API's shape, without effect on other requests.

import type { ReadMeEngine } from "@readme-moe/engine";
import { readMe } from "@readme-moe/express";
import express from "express";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { complete } from "../support/complete.ts";
import { manualTimers } from "../support/manual-timers.ts";
import { postJson } from "../support/post-json.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { openSocket, postHead, postRaw, readAll } from "../support/raw-http.ts";
import { listen, openTinyEngine, type RunningServer } from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const NUM_RUNS = Number(process.env["README_MOE_FUZZ_RUNS"] ?? 300);
const SEED = Number(process.env["README_MOE_FUZZ_SEED"] ?? 1);
const BODY_TIMEOUT_MS = 777;
const MAX_BODY_BYTES = 100_000;

const folder = await persistentFolder();
const timers = manualTimers();
const unhandled: unknown[] = [];
const onUnhandled = (error: unknown): unknown => unhandled.push(error);
let engine: ReadMeEngine;
let server: RunningServer;
let right: string;

beforeAll(async () => {
  process.on("unhandledRejection", onUnhandled);
  engine = await openTinyEngine(folder);
  const app = express();
  app.use(readMe.api({ engine, timers, bodyTimeoutMs: BODY_TIMEOUT_MS, maxBodyBytes: MAX_BODY_BYTES }));
  server = await listen(app);
  right = (await complete(engine, { prompt: "The ship", params: { temperature: 0, maxTokens: 4, ignoreEos: true } }))
    .text;
});
afterAll(async () => {
  process.off("unhandledRejection", onUnhandled);
  await server[Symbol.asyncDispose]();
  await engine.dispose();
});

/** Checks that the server still answers correctly and the engine is idle. */
afterEach(async () => {
  const request = { prompt: "The ship", temperature: 0, max_tokens: 4, ignore_eos: true };
  const { body } = await postJson(`${server.url}/v1/completions`, request);
  expect(body).toMatchObject({ choices: [{ text: right }] });
  await expect.poll(() => engine.stats()).toMatchObject({ numRunning: 0, numWaiting: 0, kvUsedTokens: 0 });
  expect(unhandled).toEqual([]);
});

const PATHS = ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"] as const;
const GOOD: readonly Buffer[] = [
  { messages: [{ role: "user", content: "Hi 🙂" }], max_tokens: 2, stop: ["x"], logit_bias: { 5: 1 } },
  { prompt: ["a", "b"], max_tokens: 2, stream: true, stream_options: { include_usage: true }, seed: 7 },
  { prompt: [[1, 2], [3]], max_tokens: 1, logprobs: 2, read_me: { include: ["routes", "timings"] } },
  { messages: [{ role: "user", content: [{ type: "text", text: "é\u0000" }] }], max_tokens: 1, stream: true },
  { tokens: [1, 2, 3] },
  { messages: [{ role: "user", content: "a" }], max_tokens: 2, prediction: { type: "content", content: "a b" } },
].map((body) => Buffer.from(JSON.stringify(body)));

interface Answer {
  readonly status: number;
  readonly body: string;
}

function parseAnswer(raw: string): Answer {
  const text = Buffer.from(raw, "latin1").toString();
  return { status: Number(/^HTTP\/1\.1 (\d{3})/.exec(text)?.[1]), body: text.slice(text.indexOf("\r\n\r\n") + 4) };
}

function expectRefusalOrAnswer({ status, body }: Answer, what: string): void {
  expect([200, 400, 404, 413, 415], `${what}: ${body.slice(0, 300)}`).toContain(status);
  if (status === 200) return;
  const { error } = JSON.parse(body) as { error: Record<string, unknown> };
  expect(Object.keys(error).toSorted(), what).toEqual(["code", "message", "param", "type"]);
  expect(error["type"], what).toBe("invalid_request_error");
  // Answers must not contain stack traces or paths.
  expect(body, what).not.toMatch(/node_modules|\.ts:|\.js:|at .*\(/);
  expect(body.length, what).toBeLessThan(2000);
}

test(
  `bodies with random damage are answered or refused (${NUM_RUNS} of them, seed ${SEED})`,
  { timeout: 600_000 },
  async () => {
    const random = seededRandom(SEED);
    const statuses = new Set<number>();
    for (let run = 0; run < NUM_RUNS; run++) {
      const body = damaged(GOOD[randomInteger(random, GOOD.length)] as Buffer, random);
      const path = PATHS[randomInteger(random, PATHS.length)] as string;
      const answer = parseAnswer(await postRaw(server.port, path, body));
      expectRefusalOrAnswer(answer, `run ${run}: ${path} ${JSON.stringify(body.toString("latin1"))}`);
      statuses.add(answer.status);
    }
    expect(statuses).toContain(400);
  },
);

/** Changes, cuts, doubles or inserts random bytes. */
function damaged(good: Buffer, random: () => number): Buffer {
  let bytes = Buffer.from(good);
  const numDamages = 1 + randomInteger(random, 3);
  for (let damage = 0; damage < numDamages; damage++) {
    const at = randomInteger(random, bytes.length + 1);
    const length = randomInteger(random, 6);
    const [before, after] = [bytes.subarray(0, at), bytes.subarray(at)];
    const kinds = [
      () => Buffer.concat([before, after.subarray(length)]),
      () => Buffer.concat([before, Buffer.from([randomInteger(random, 256)]), after.subarray(1)]),
      () => Buffer.concat([before, after.subarray(0, length), after]),
      () => before,
      () => Buffer.concat([before, Buffer.from(TOKENS[randomInteger(random, TOKENS.length)] as string), after]),
    ];
    bytes = (kinds[randomInteger(random, kinds.length)] as () => Buffer<ArrayBuffer>)();
  }
  return bytes;
}

const TOKENS = [
  "{",
  "}",
  "[",
  "]",
  ",",
  ":",
  '"',
  "null",
  "1e999",
  "-0",
  "\\u0000",
  '"__proto__":',
  '"constructor":{},',
  "9".repeat(40),
];

const nested = (depth: number, open: string, inner: string, close: string): string =>
  open.repeat(depth) + inner + close.repeat(depth);

const hostile: Readonly<Record<string, readonly [path: string, body: string | Buffer, status: number]>> = {
  "an empty body": ["/v1/completions", "", 400],
  "a body that is a string": ["/v1/completions", '"prompt"', 400],
  "a body that is a list": ["/v1/completions", '[{"prompt":"x"}]', 400],
  "a body that is null": ["/v1/completions", "null", 400],
  "deeply nested lists": ["/v1/completions", `{"prompt":${nested(45_000, "[", "", "]")}}`, 400],
  "deeply nested objects": ["/v1/chat/completions", nested(15_000, '{"a":', "1", "}"), 400],
  "deeply nested metadata": ["/v1/completions", `{"prompt":"x","metadata":${nested(15_000, '{"a":', '""', "}")}}`, 400],
  "deeply nested template variables": [
    "/v1/chat/completions",
    `{"messages":[{"role":"user","content":"x"}],"max_tokens":1,"chat_template_kwargs":${nested(10_000, '{"a":', '""', "}")}}`,
    400,
  ],
  "a text longer than the context": ["/v1/completions", JSON.stringify({ prompt: "word ".repeat(19_000) }), 400],
  "a text larger than the limit": ["/v1/completions", JSON.stringify({ prompt: "x".repeat(MAX_BODY_BYTES) }), 413],
  "a parameter name of 90,000 chars": ["/v1/completions", JSON.stringify({ ["n".repeat(90_000)]: 1 }), 400],
  "a model name of 90,000 chars": ["/v1/completions", JSON.stringify({ prompt: "x", model: "m".repeat(90_000) }), 400],
  "ten thousand unknown names": [
    "/v1/completions",
    JSON.stringify(Object.fromEntries(Array.from({ length: 10_000 }, (_, index) => [`p${index}`, 1]))),
    400,
  ],
  "ten thousand prompts": [
    "/v1/completions",
    JSON.stringify({ prompt: Array.from({ length: 10_000 }, () => "x") }),
    400,
  ],
  "a prediction longer than the context": [
    "/v1/chat/completions",
    JSON.stringify({
      messages: [{ role: "user", content: "x" }],
      prediction: { type: "content", content: "word ".repeat(19_000) },
    }),
    400,
  ],
  "a deeply nested prediction": [
    "/v1/chat/completions",
    `{"messages":[{"role":"user","content":"x"}],"prediction":${nested(5000, '{"content":', '""', "}")}}`,
    400,
  ],
  "bytes that are not UTF-8": [
    "/v1/completions",
    Buffer.from([...Buffer.from('{"prompt":"'), 0xc3, 0x28, 0x22, 0x7d]),
    400,
  ],
  "an overlong encoding of a slash": [
    "/v1/completions",
    Buffer.from([...Buffer.from('{"prompt":"'), 0xc0, 0xaf, 0x22, 0x7d]),
    400,
  ],
  "`__proto__` in the body": ["/v1/completions", '{"prompt":"x","max_tokens":1,"__proto__":{"n":5}}', 400],
  "`__proto__` in a map": ["/v1/completions", '{"prompt":"x","max_tokens":1,"metadata":{"__proto__":"y"}}', 400],
  "a number above the largest double": ["/v1/completions", '{"prompt":"x","temperature":1e999}', 400],
};

test.each(Object.entries(hostile))("%s is answered at once", async (what, [path, body, status]) => {
  const answer = parseAnswer(await postRaw(server.port, path, body));
  expectRefusalOrAnswer(answer, what);
  expect(answer.status, answer.body).toBe(status);
});

describe("an incomplete body", () => {
  const part = '{"prompt":"x","max_tok';

  test("is refused after the time limit", async () => {
    const socket = await openSocket(server.port);
    socket.write(postHead("/v1/completions", 1000) + part);
    await timers.waiting(BODY_TIMEOUT_MS);
    socket.write("e");
    expect(timers.fire(BODY_TIMEOUT_MS)).toBe(1);
    const { status, body } = parseAnswer(await readAll(socket));
    expect([status, JSON.parse(body)]).toMatchObject([408, { error: { code: "body_timeout" } }]);
  });

  test("stops its timer when the client leaves", async () => {
    for (let time = 0; time < 2; time++) {
      const closed = new Promise((resolve) => server.server.once("connection", (one) => one.once("close", resolve)));
      const socket = await openSocket(server.port);
      socket.write(postHead("/v1/completions", 1000) + part);
      await timers.waiting(BODY_TIMEOUT_MS);
      expect(timers.count(BODY_TIMEOUT_MS)).toBe(1);
      socket.destroy();
      await closed;
      await expect.poll(() => timers.count(BODY_TIMEOUT_MS)).toBe(0);
    }
  });

  test("and a hundred others do not delay a complete request", async () => {
    const sockets = await Promise.all(Array.from({ length: 100 }, () => openSocket(server.port)));
    for (const socket of sockets) socket.write(postHead("/v1/completions", 1000) + part);
    await timers.waiting(BODY_TIMEOUT_MS);
    const { status } = await postJson(`${server.url}/v1/completions`, { prompt: "x", max_tokens: 1 });
    expect(status).toBe(200);
    for (const socket of sockets) socket.destroy();
  });
});
