// The same requests over Express and over the handler of web requests: the answers have the same bytes.

import { gzipSync, brotliCompressSync, deflateSync } from "node:zlib";
import { readMe, type ReadMeOptions } from "@readme-moe/express";
import express from "express";
import { afterAll, beforeAll, expect, test } from "vitest";
import { chunkOf, chunksInTurns, scriptedEngine, USAGE } from "../support/scripted-engine.ts";
import { listen, type RunningServer } from "../support/served-model.ts";

const PAGE = "https://app.example.com";
const KEY = { authorization: "Bearer secret" };
const JSON_TYPE = { "content-type": "application/json" };

function options(): ReadMeOptions {
  const script = chunksInTurns(
    chunkOf(0, "a"),
    chunkOf(0, "é"),
    chunkOf(0, "c", { finishReason: "length", usage: USAGE }),
  );
  return {
    engine: scriptedEngine(script),
    keys: { alice: "secret" },
    cors: { origins: [PAGE] },
    version: "1.2.3",
    maxBodyBytes: 4096,
    requestsPerMinute: 1000,
  };
}

let server: RunningServer;
beforeAll(async () => {
  server = await listen(express().use(readMe(options())).disable("x-powered-by"));
});
afterAll(() => server[Symbol.asyncDispose]());
const handler = readMe.fetch(options() as Parameters<typeof readMe.fetch>[0]);

interface Sent {
  readonly path: string;
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string | Uint8Array<ArrayBuffer>;
}

const post = (path: string, body: unknown, headers: Readonly<Record<string, string>> = {}): Sent => ({
  path,
  method: "POST",
  headers: { ...JSON_TYPE, ...KEY, ...headers },
  body: typeof body === "string" || body instanceof Uint8Array ? (body as string) : JSON.stringify(body),
});
const complete = (body: unknown, headers?: Readonly<Record<string, string>>): Sent =>
  post("/v1/completions", body, headers);
const get = (path: string, headers: Readonly<Record<string, string>> = KEY, method = "GET"): Sent => ({
  path,
  headers,
  method,
});
const coded = (bytes: Buffer, name: string): Sent => complete(Uint8Array.from(bytes), { "content-encoding": name });

const GOOD = JSON.stringify({ prompt: "x", max_tokens: 3 });
const MESSAGES = [{ role: "user", content: "Hi" }];

/** Headers that the transport adds, or that say when an answer was made. */
const TRANSPORT = ["connection", "date", "etag", "keep-alive", "transfer-encoding", "openai-processing-ms"];

async function shapeOf(response: Response): Promise<object> {
  const headers = Object.fromEntries([...response.headers].filter(([name]) => !TRANSPORT.includes(name)));
  const made = /[\da-f]{8}-[\da-f-]{27}|(?<=(msg|resp|rs|fc)_)\w{24,}/g;
  const times = /(?<="(created|created_at|completed_at)":)\d+|(?<=x-ratelimit-reset-requests":)"\w+"/g;
  const dates = /\d{4}-\d\d-\d\dT[\d:.]+Z/g;
  const plain = (text: string): string => text.replaceAll(made, "ID").replaceAll(times, "0").replaceAll(dates, "DATE");
  return {
    status: response.status,
    headers: JSON.parse(plain(JSON.stringify(headers))) as object,
    body: plain(await response.text()),
  };
}

const REQUESTS: Readonly<Record<string, Sent>> = {
  "a completion": complete(GOOD),
  "a stream": complete({ prompt: "x", max_tokens: 3, stream: true, stream_options: { include_usage: true } }),
  "a chat": post("/v1/chat/completions", { messages: MESSAGES, max_tokens: 3 }),
  "a chat's stream": post("/v1/chat/completions", { messages: MESSAGES, max_tokens: 3, stream: true }),
  "a response's stream": post("/v1/responses", { input: "Hi", stream: true }),
  "a message": post("/v1/messages", { messages: MESSAGES, max_tokens: 3 }),
  "a message's stream": post("/v1/messages", { messages: MESSAGES, max_tokens: 3, stream: true }),
  "a message that is wrong": post("/v1/messages", { messages: MESSAGES }),
  "an unknown version of Anthropic's API": get("/v1/models", { ...KEY, "anthropic-version": "2020-01-01" }),
  models: get("/v1/models"),
  "models in Anthropic's format": get("/v1/models", { ...KEY, "anthropic-version": "2023-06-01" }),
  "a model": get("/v1/models/scripted"),
  "a model with slashes": get("/v1/models/some/where/else"),
  "a path that cannot be decoded": get("/v1/models/%E0%A4"),
  "a path in upper case with a slash": get("/V1/MODELS/"),
  "a head": get("/v1/models", KEY, "HEAD"),
  options: get("/v1/models", KEY, "OPTIONS"),
  "a wrong method": get("/v1/completions"),
  "a method that no route has": { path: "/v1/completions", method: "PUT", headers: KEY },
  "an unknown path of the API": get("/v1/embeddings"),
  "a response that is not kept": get("/v1/responses/resp_1?stream=true"),
  "items with a wrong limit": get("/v1/responses/resp_1/input_items?limit=x&limit=y"),
  "the description": get("/openapi.json"),
  health: get("/health", {}),
  readiness: get("/readyz", {}),
  "a version": get("/version", {}),
  "a posted version": { path: "/version", method: "POST" },
  "no key": get("/v1/models", {}),
  "a wrong key": get("/v1/models", { authorization: "Bearer wrong" }),
  "a key of Anthropic's clients": get("/v1/models", { "x-api-key": "secret" }),
  "a preflight": get(
    "/v1/completions",
    { origin: PAGE, "access-control-request-method": "POST", "access-control-request-headers": "authorization" },
    "OPTIONS",
  ),
  "a page's request": complete(GOOD, { origin: PAGE }),
  "another page's request": complete(GOOD, { origin: "https://evil.example.com" }),
  "ids and traces": complete(GOOD, {
    "x-request-id": "mine",
    traceparent: `00-${"a".repeat(32)}-${"b".repeat(16)}-01`,
  }),
  "another content type": complete(GOOD, { "content-type": "text/plain" }),
  "a content type with parameters": complete(GOOD, { "content-type": 'Application/JSON ;charset="UTF-8"' }),
  "a content type with a broken parameter": complete(GOOD, { "content-type": "application/json; charset=" }),
  "an unknown character set": complete(GOOD, { "content-type": "application/json; charset=latin1" }),
  "UTF-16": complete(Uint8Array.from(Buffer.from(GOOD, "utf16le")), {
    "content-type": "application/json; charset=utf-16le",
  }),
  "a byte order mark": complete(`\uFEFF${GOOD}`),
  "bytes that are not UTF-8": complete(Uint8Array.of(0x7b, 0x22, 0xff, 0x22, 0x7d)),
  "no JSON": complete("{"),
  "a number": complete("7"),
  "an empty body": complete(""),
  "no body": { path: "/v1/completions", method: "POST", headers: { ...KEY, ...JSON_TYPE } },
  "deep nesting": complete(`{"prompt":${"[".repeat(100)}${"]".repeat(100)}}`),
  "an unknown parameter": complete({ prompt: "x", temprature: 1 }),
  "a body above the limit": complete({ prompt: "x".repeat(5000) }),
  gzip: coded(gzipSync(GOOD), "gzip"),
  deflate: coded(deflateSync(GOOD), "DEFLATE"),
  brotli: coded(brotliCompressSync(GOOD), "br"),
  "gzip that is cut off": coded(gzipSync(GOOD).subarray(0, 20), "gzip"),
  "gzip that is none": coded(Buffer.from(GOOD), "gzip"),
  "gzip that is large inside": coded(gzipSync(JSON.stringify({ prompt: "x".repeat(100_000) })), "gzip"),
  "an unknown encoding": coded(Buffer.from(GOOD), "zip"),
};

test.each(Object.entries(REQUESTS))("%s", async (_, { path, ...init }) => {
  const overExpress = await shapeOf(await fetch(server.url + path, init));
  const overFetch = await shapeOf(await handler.fetch(new Request(`http://localhost${path}`, init)));
  expect(overFetch).toEqual(overExpress);
});
