// Refusals of the API, and answers to errors of the server.

import express from "express";
import { mkdir } from "node:fs/promises";
import type { ReadMeEngine } from "@readme-moe/engine";
import { ApiError } from "@readme-moe/express";
import { afterAll, beforeAll, expect, test } from "vitest";
import { checkBody } from "../../packages/express/src/api/body.ts";
import { completionBody } from "../../packages/express/src/api/request-schemas.ts";
import { readMe } from "../support/border.ts";
import { type JsonAnswer, postJson } from "../support/post-json.ts";
import { listen, openTinyEngine, type RunningServer } from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const folder = await persistentFolder();
let engine: ReadMeEngine;
let server: RunningServer;

beforeAll(async () => {
  engine = await openTinyEngine(folder);
  const app = express();
  app.use(readMe.api({ engine }));
  server = await listen(app);
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  await engine.dispose();
});

const post = (path: string, body: unknown): Promise<JsonAnswer> => postJson(`${server.url}${path}`, body);
const messages = [{ role: "user", content: "Hello there" }] as const;

const chat = (more: object): [string, object] => ["/v1/chat/completions", { messages, max_tokens: 2, ...more }];
const completion = (more: object): [string, object] => ["/v1/completions", { prompt: "x", max_tokens: 2, ...more }];
const image = { type: "image_url", image_url: { url: "data:" } };

const refused: readonly (readonly [string, [string, object], string, string])[] = [
  ["an unknown parameter", chat({ temprature: 1 }), "temprature", "unsupported_parameter"],
  ["audio", chat({ audio: { voice: "x" } }), "audio", "unsupported_parameter"],
  ["two constraints", chat({ guided_regex: "a", grammar: 'root ::= "a"' }), "grammar", "unsupported_parameter"],
  ["`best_of`", completion({ best_of: 3 }), "best_of", "unsupported_parameter"],
  ["a suffix", completion({ suffix: "end" }), "suffix", "unsupported_parameter"],
  ["echoes with log-probabilities", completion({ echo: true, logprobs: 1 }), "echo", "unsupported_parameter"],
  [
    "an unsupported stream option",
    chat({ stream_options: { continuous_usage_stats: true } }),
    "stream_options.continuous_usage_stats",
    "unsupported_parameter",
  ],
  [
    "images",
    chat({ messages: [{ role: "user", content: [image] }] }),
    "messages[0].content[0].type",
    "unsupported_parameter",
  ],
  ["an unknown role", chat({ messages: [{ role: "usr", content: "x" }] }), "messages[0].role", "invalid_value"],
  ["no content", chat({ messages: [{ role: "assistant" }] }), "messages[0].content", "invalid_value"],
  ["no messages", chat({ messages: [] }), "messages", "invalid_value"],
  ["a missing prompt", ["/v1/completions", {}], "prompt", "missing_required_parameter"],
  ["a temperature that is not a number", chat({ temperature: "hot" }), "temperature", "invalid_value"],
  ["a temperature out of range", chat({ temperature: 3 }), "temperature", "invalid_value"],
  ["a fractional number of tokens", completion({ max_tokens: 1.5 }), "max_tokens", "invalid_value"],
  ["zero tokens", completion({ max_tokens: 0 }), "max_tokens", "invalid_value"],
  ["an empty stop string", chat({ stop: [""] }), "stop[0]", "invalid_value"],
  ["a lone surrogate as a stop string", chat({ stop: "\ud83d" }), "stop", "invalid_value"],
  ["a bias without a token id", chat({ logit_bias: { word: 1 } }), "logit_bias.word", "invalid_value"],
  ["a bias outside the vocabulary", chat({ logit_bias: { 4096: 1 } }), "logit_bias", "invalid_value"],
  ["a token outside the vocabulary", completion({ prompt: [5, 4096] }), "prompt", "invalid_value"],
  ["an empty text", completion({ prompt: "" }), "prompt", "invalid_value"],
  [
    "a prompt that fills the context",
    completion({ prompt: Array.from({ length: 256 }, () => 3) }),
    "prompt",
    "context_length_exceeded",
  ],
  ["an unknown expert", chat({ read_me: { expert: "github" } }), "read_me.expert", "invalid_value"],
  ["top tokens without log-probabilities", chat({ top_logprobs: 2 }), "top_logprobs", "invalid_value"],
  ["a minimum of tokens above the maximum", chat({ min_tokens: 3 }), "min_tokens", "invalid_value"],
  ["too many choices of all prompts", completion({ prompt: ["a", "b"], n: 100 }), "n", "invalid_value"],
  ["an empty prompt among several", completion({ prompt: ["a", ""], stream: true }), "prompt[1]", "invalid_value"],
  [
    "an empty prompt after many others",
    completion({ prompt: [...Array.from({ length: 60 }, () => "a b c"), ""], stream: true, max_tokens: 2 }),
    "prompt[60]",
    "invalid_value",
  ],
];

test.each(refused)("%s is refused by parameter", async (_, [path, body], param, code) => {
  const answer = await post(path, body);
  expect(answer.body).toEqual({
    error: { message: expect.any(String) as unknown, type: "invalid_request_error", param, code },
  });
  expect(answer.status).toBe(400);
  // A stream is refused before it begins.
  expect(await post(path, { ...body, stream: true })).toMatchObject({ status: 400, body: answer.body });
});

test("null counts as absent", async () => {
  const nothing = { temperature: null, stop: null, tools: null, audio: null, store: null, seed: null, read_me: null };
  expect(await post(...chat(nothing))).toMatchObject({ status: 200 });
});

test("a chat with a model without a chat template is refused without showing a path", async () => {
  await using plain = await openTinyEngine(await persistentFolderIn("plain"), { template: "" });
  const app = express();
  app.use(readMe.api({ models: { plain } }));
  await using other = await listen(app);
  const { status, body } = await postJson(`${other.url}/v1/chat/completions`, { messages });
  expect([status, body]).toMatchObject([400, { error: { param: "messages" } }]);
  expect(JSON.stringify(body)).not.toContain(plain.info.path);
});

test("the error of a chat template reaches the client", async () => {
  const template = "{{ raise_exception('roles must alternate') }}";
  await using strict = await openTinyEngine(await persistentFolderIn("strict"), { template });
  const app = express();
  app.use(readMe.api({ models: { strict } }));
  await using other = await listen(app);
  const { status, body } = await postJson(`${other.url}/v1/chat/completions`, { messages });
  expect([status, body]).toMatchObject([400, { error: { param: "messages", code: "invalid_value" } }]);
  expect(JSON.stringify(body)).toContain("roles must alternate");
});

test("`onRequest` changes and refuses requests, and its unexpected errors stay hidden", async () => {
  const app = express();
  const seen: unknown[] = [];
  app.use(
    readMe.api({
      engine,
      onRequest: (body, { endpoint, requestId }) => {
        seen.push([endpoint, requestId]);
        if (body.user === "eve") throw new ApiError({ status: 403, type: "permission_error", message: "Not you" });
        if (body.user === "bug") throw new Error("/secret/path");
        return { ...body, max_tokens: 2 };
      },
    }),
  );
  await using other = await listen(app);
  const ask = (user: string): Promise<JsonAnswer> =>
    postJson(`${other.url}/v1/completions`, { prompt: "x", user, ignore_eos: true }, { "x-request-id": user });
  expect(await ask("ann")).toMatchObject({ status: 200, body: { usage: { completion_tokens: 2 } } });
  expect(await ask("eve")).toMatchObject({ status: 403, body: { error: { message: "Not you" } } });
  const broken = await ask("bug");
  expect(broken).toMatchObject({ status: 500, body: { error: { type: "server_error" } } });
  expect(JSON.stringify(broken.body)).not.toContain("secret");
  expect(seen).toEqual(["ann", "eve", "bug"].map((user) => ["/v1/completions", user]));
});

test("failed and disposed engines lead to server errors", async () => {
  const doomed = await openTinyEngine(await persistentFolderIn("doomed"));
  const app = express();
  app.use(readMe.api({ models: { doomed } }));
  await using other = await listen(app);
  const ask = (): Promise<JsonAnswer> => postJson(`${other.url}/v1/completions`, { prompt: "x" });
  doomed.kill();
  await expect.poll(ask).toMatchObject({ status: 503, body: { error: { type: "server_error" } } });
  const failed = await ask();
  expect(JSON.stringify(failed.body)).not.toContain(doomed.info.path);
  await doomed.dispose();
  expect(await ask()).toMatchObject({ status: 503 });
});

test.each([
  [{}, /`engine` or `models`/],
  [{ engin: 1 }, /`engin`.*did you mean `engine`/],
  [{ engine: "x" }, /`engine`/],
  [{ models: {} }, /`models`/],
])("options %j are refused", (options, message) => {
  expect(() => readMe.api(options as never)).toThrow(message);
});

test("a refused prompt ends the other prompts of its request", async () => {
  const prompt = [Array.from({ length: 10 }, () => 3), Array.from({ length: 256 }, () => 3)];
  const answer = await post(...completion({ prompt, max_tokens: 200, ignore_eos: true }));
  expect([answer.status, answer.body]).toMatchObject([400, { error: { code: "context_length_exceeded" } }]);
  // Aborts take effect within a step.
  await expect.poll(() => engine.stats()).toMatchObject({ numRunning: 0, numWaiting: 0, kvUsedTokens: 0 });
});

async function persistentFolderIn(name: string): Promise<string> {
  const path = `${folder}/${name}`;
  await mkdir(path, { recursive: true });
  return path;
}

test("a body that other middleware has parsed is refused if it is nested too deeply", () => {
  let prompt: unknown = 1;
  for (let level = 0; level < 100_000; level++) prompt = [prompt];
  for (const field of ["prompt", "tokens", "stop", "metadata"]) {
    expect(() => checkBody(completionBody, { prompt: "x", [field]: prompt })).toThrow(ApiError);
  }
});
