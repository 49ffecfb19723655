// Every limit in the table of the docs: a request just beyond the limit gets the documented answer.

import express from "express";
import { once } from "node:events";
import { join } from "node:path";
import type { ReadMeEngine } from "@readme-moe/engine";
import { Admission, boundConnections, type Limit, LIMITS, readMe, ServedModels } from "@readme-moe/express";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { Paces } from "../../packages/express/src/http/request.ts";
import { ResponseStore } from "../../packages/express/src/responses/store.ts";
import { keptResponse } from "../support/kept-response.ts";
import { manualTimers } from "../support/manual-timers.ts";
import { openSocket, postHead, postRaw, readAll } from "../support/raw-http.ts";
import { listen, openTinyEngine, type RunningServer } from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

type Name = keyof typeof LIMITS;

const CHAT = "/v1/chat/completions";
const TEXT = "/v1/completions";
const MESSAGE = '{"role":"user","content":"x"}';

let engine: ReadMeEngine;
let server: RunningServer;
let models: ServedModels;
const admission = new Admission({ maxQueueMs: 60_000 });
const timers = manualTimers();
const open: { destroy(): void }[] = [];

beforeAll(async () => {
  const folder = await persistentFolder();
  engine = await openTinyEngine(folder, {}, { config: { max_position_embeddings: 4096 } });
  models = new ServedModels({ tiny: engine });
  const batches = { folder: join(folder, "batches") };
  const app = express().set("trust proxy", true).use(readMe({ models, admission, timers, batches }));
  server = await listen(app);
  boundConnections(server.server);
});
afterEach(async () => {
  for (const one of open.splice(0)) one.destroy();
  await expect.poll(() => timers.count(LIMITS.uploadMs.value)).toBe(0);
  await expect
    .poll(() => admission.stats)
    .toMatchObject({
      requests: 0,
      tokens: 0,
      bytes: 0,
      arriving: { requests: 0, bytes: 0 },
    });
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  await models.drain();
});

/** @returns status and code of the answer, as in the table */
async function told(path: string, body: string): Promise<string> {
  return outcomeOf(await postRaw(server.port, path, body));
}

function outcomeOf(answer: string): string {
  if (answer === "") return "the connection is closed";
  const status = /^HTTP\/1\.1 (\d{3})/.exec(answer)?.[1];
  const code = /"code":"(\w+)"/.exec(answer)?.[1];
  return code === undefined ? `${status}` : `${status} \`${code}\``;
}

const list = (count: number, item: string): string => `[${Array.from({ length: count }, () => item).join(",")}]`;
const map = (count: number, value: string): string =>
  `{${Array.from({ length: count }, (_, index) => `"${index}":${value}`).join(",")}}`;
const chat = (fields: string): string => `{"messages":[${MESSAGE}],"max_tokens":1,${fields}}`;
const nested = (levels: number): string => `${"[".repeat(levels)}${"]".repeat(levels)}`;

/** Occupies places until the test ends. */
function fill(
  requests: number,
  { client, bytes = 0, tokens = 0 }: { client?: string; bytes?: number; tokens?: number },
): void {
  for (let index = 0; index < requests; index++) {
    const signal = new AbortController().signal;
    const ticket = admission.enter({
      bytes,
      maxPromptTokens: 0,
      maxCompletionTokens: tokens,
      choices: 1,
      key: undefined,
      client,
      priority: 0,
      signal,
    });
    open.push({ destroy: () => ticket.release() });
  }
}

/** Sends a request from an address of its own. */
async function toldTo(client: string, body = '{"prompt":"x","max_tokens":1}'): Promise<string> {
  const socket = await openSocket(server.port);
  socket.write(postHead(TEXT, Buffer.byteLength(body), [`X-Forwarded-For: ${client}`]) + body);
  return outcomeOf(await readAll(socket));
}

/** Begins to send a file from an address of its own. @returns the answer's outcome, once it comes */
async function beginUpload(client: string): Promise<{ readonly outcome: Promise<string> }> {
  const socket = await openSocket(server.port);
  open.push(socket);
  const outcome = readAll(socket).then(outcomeOf);
  const head = postHead("/v1/files", 1e6, [`X-Forwarded-For: ${client}`]);
  socket.write(`${head.replace("application/json", "multipart/form-data; boundary=b")}--b\r\n`);
  return { outcome };
}

/** Begins uploads, and waits until all of them are arriving. */
async function fillUploads(client: string, count: number): Promise<void> {
  const before = timers.count(LIMITS.uploadMs.value);
  for (let index = 0; index < count; index++) await beginUpload(client);
  await expect.poll(() => timers.count(LIMITS.uploadMs.value)).toBe(before + count);
}

/** Sends a request, and reads nothing until a timer of the server has fired. */
async function unread(path: string, body: string): Promise<string> {
  const socket = await openSocket(server.port);
  open.push(socket);
  socket.pause();
  socket.write(postHead(path, body.length) + body);
  await timers.waiting(LIMITS.slowReaderMs.value);
  timers.fire(LIMITS.slowReaderMs.value);
  const closed = once(socket, "close");
  socket.on("error", () => undefined);
  // Data that was sent before still arrives.
  socket.resume();
  await closed;
  return "the connection is closed";
}

function outcomeOfStore(store: ResponseStore, numKept: number, client: string): string {
  const isRight = store.stats.responses === numKept && store.get("0", client) === undefined;
  return isRight ? "the least recently used are removed" : `${store.stats.responses} are kept`;
}

// Each probe exceeds its limit slightly and returns the answer.
const PROBES: Readonly<Record<Name, (limit: number) => Promise<string>>> = {
  reconnectMs: (limit) => told(TEXT, `{"prompt":"x","read_me":{"reconnect_ms":${limit + 1}}}`),
  pipelined: async (limit) => {
    const socket = await openSocket(server.port);
    socket.on("error", () => undefined);
    socket.write("GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(limit + 2));
    const answers = (await readAll(socket)).split("HTTP/1.1 200").length - 1;
    return answers <= 1 ? "the connection is closed" : `${answers} answers`;
  },
  bodyBytes: (limit) => told(TEXT, `{"prompt":"${"x".repeat(limit)}"}`),
  bodyMs: async (limit) => {
    const socket = await openSocket(server.port);
    socket.write(postHead(TEXT, 10));
    await timers.waiting(limit);
    timers.fire(limit);
    return outcomeOf(await readAll(socket));
  },
  uploads: async (limit) => {
    for (const [index, count] of [4, 2, 1, limit - 7].entries()) await fillUploads(`10.0.0.${index}`, count);
    return (await beginUpload("10.0.0.9")).outcome;
  },
  uploadShare: async (share) => {
    await fillUploads("10.0.0.1", LIMITS.uploads.value * share);
    // Other clients still find a place.
    await fillUploads("10.0.0.2", 1);
    return (await beginUpload("10.0.0.1")).outcome;
  },
  uploadSliceMs: async (limit) => {
    const { outcome } = await beginUpload("10.0.0.1");
    await timers.waiting(limit);
    timers.fire(limit);
    return outcome;
  },
  uploadMs: async (limit) => {
    const { outcome } = await beginUpload("10.0.0.1");
    await timers.waiting(limit);
    timers.fire(limit);
    return outcome;
  },
  bodyValues: (limit) => told(CHAT, chat(`"tools":[{"a":${list(limit, '""')}}]`)),
  bodyItems: (limit) => told("/detokenize", `{"tokens":${list(limit + 1, "1")}}`),
  bodyDepth: (limit) => told(CHAT, chat(`"tools":${nested(limit)}`)),
  messageItems: (limit) =>
    told(CHAT, `{"messages":[{"role":"user","content":${list(limit, '{"type":"text","text":""}')}}]}`),
  prompts: (limit) => told(TEXT, `{"prompt":${list(limit + 1, '"x"')}}`),
  inputs: (limit) => told("/v1/embeddings", `{"input":${list(limit + 1, '"x"')}}`),
  tokenIds: (limit) => told("/detokenize", `{"tokens":${list(limit + 1, "1")}}`),
  logitBiases: (limit) => told(CHAT, chat(`"logit_bias":${map(limit + 1, "1")}`)),
  stopTokens: (limit) => told(CHAT, chat(`"stop_token_ids":${list(limit + 1, "1")}`)),
  stops: (limit) => told(CHAT, chat(`"stop":${list(limit + 1, '"x"')}`)),
  guidedChoices: (limit) => told(CHAT, chat(`"guided_choice":${list(limit + 1, '"x"')}`)),
  extraFiles: (limit) => told(TEXT, `{"prompt":"x","suffix":"y","input_extra":${list(limit + 1, '{"text":"x"}')}}`),
  tools: (limit) => told(CHAT, chat(`"tools":${list(limit + 1, '{"type":"function","function":{"name":"f"}}')}`)),
  metadata: (limit) => told(CHAT, chat(`"metadata":${map(limit + 1, '"x"')}`)),
  templateVariables: (limit) => told(CHAT, chat(`"chat_template_kwargs":${map(limit + 1, '"x"')}`)),
  choices: (limit) => told(TEXT, `{"prompt":["x","y"],"max_tokens":1,"n":${limit / 2 + 1}}`),
  priority: (limit) => told(TEXT, `{"prompt":"x","max_tokens":1,"read_me":{"priority":${limit + 1}}}`),
  requests: async (limit) => {
    fill(limit, {});
    return toldTo("10.0.0.1");
  },
  tokens: async (limit) => {
    fill(1, { tokens: limit });
    return toldTo("10.0.0.1");
  },
  bytes: async (limit) => {
    fill(1, { bytes: limit });
    return toldTo("10.0.0.1");
  },
  clientShare: async (share) => {
    fill(Math.ceil(LIMITS.requests.value * share), { client: "address:10.0.0.1" });
    // Other clients still find a place.
    expect(await toldTo("10.0.0.2")).toBe("200");
    return toldTo("10.0.0.1");
  },
  loopShare: async (share) => {
    const paces = new Paces();
    paces.begin("a", 0, 0)(100, 100);
    expect(paces.waitMs("b", 100)).toBe(0);
    return paces.waitMs("a", 100) === 100 / share - 100 ? "its next bodies are read later" : "at once";
  },
  queueMs: async () => {
    const strict = new Admission({ maxQueueMs: 1 });
    const ticket = strict.enter({
      bytes: 1,
      maxCompletionTokens: 1,
      choices: 1,
      key: undefined,
      priority: 0,
      signal: new AbortController().signal,
    });
    if (!ticket.signal.aborted) await once(ticket.signal, "abort");
    ticket.release();
    const { status, code } = ticket.signal.reason as { readonly status: number; readonly code: string };
    return `${status} \`${code}\``;
  },
  responses: async (limit) => {
    const store = new ResponseStore();
    for (let index = 0; index <= limit; index++) store.keep(`client-${index % 3}`, keptResponse(`${index}`));
    return outcomeOfStore(store, limit, "client-0");
  },
  responseBytes: async (limit) => {
    const store = new ResponseStore();
    const text = "x".repeat(limit / 8);
    for (let index = 0; index < 8; index++) store.keep(`client-${index % 3}`, keptResponse(`${index}`, text));
    return outcomeOfStore(store, 7, "client-0");
  },
  responseClientShare: async (limit) => {
    const store = new ResponseStore();
    const count = LIMITS.responses.value * limit;
    for (let index = 0; index <= count; index++) store.keep("client-0", keptResponse(`${index}`));
    return outcomeOfStore(store, count, "client-0").replace("the least", "its least");
  },
  responseMs: async (limit) => {
    let nowMs = 0;
    const store = new ResponseStore({}, () => nowMs);
    store.keep("ann", keptResponse("a"));
    nowMs = limit - 1;
    expect(store.get("a", "ann")).toBeDefined();
    nowMs = limit;
    return store.get("a", "ann") ? "it is kept" : "the response is removed";
  },
  bufferedBytes: async () => {
    const finished = new Promise<{ readonly reason: string }>((resolve) => {
      engine.events.once("sequence:finished", resolve);
    });
    const small = await listen(express().use(readMe.api({ engine, maxBufferedBytes: 1000 })));
    const socket = await openSocket(small.port);
    socket.on("error", () => undefined);
    socket.pause();
    const body = '{"prompt":"x","max_tokens":4000,"ignore_eos":true,"stream":true,"logprobs":20,"n":8}';
    socket.write(postHead(TEXT, body.length) + body);
    expect((await finished).reason).toBe("abort");
    const text = await readAll(socket.resume());
    await small[Symbol.asyncDispose]();
    return text.includes("[DONE]") ? "all of it" : "the connection is closed";
  },
  slowReaderMs: () => unread("/detokenize", `{"tokens":${list(250_000, "300")}}`),
};

test.each(Object.entries(LIMITS) as [Name, Limit][])("%s", async (name, { value, beyond }) => {
  expect(await PROBES[name](value)).toBe(beyond);
});

test("a text that cannot fit is refused before tokenization, and /tokenize counts beyond the context", async () => {
  for (const [path, body] of [
    ["/tokenize", `{"prompt":"${" a".repeat(1_500_000)}"}`],
    ["/tokenize", `{"messages":[{"role":"user","content":"${" a".repeat(1_500_000)}"}]}`],
    [TEXT, `{"prompt":"${"x".repeat(3_000_000)}"}`],
  ] as const) {
    expect(await told(path, body)).toBe("400 `context_length_exceeded`");
  }
  expect(await told("/tokenize", `{"prompt":"${"x ".repeat(4096)}"}`)).toBe("200");
});

test("requests within the limits are accepted", async () => {
  const within = chat(
    `"logit_bias":${map(100, "1")},"stop":${list(LIMITS.stops.value, '"x"')},"metadata":${map(LIMITS.metadata.value, '"x"')}`,
  );
  expect(await told(CHAT, within)).toBe("200");
  expect(await told("/detokenize", `{"tokens":${list(LIMITS.tokenIds.value, "1")}}`)).toBe("200");
  expect(await told(TEXT, `{"prompt":${list(LIMITS.prompts.value, '"x"')},"max_tokens":1}`)).toBe("200");
  expect(await told(TEXT, '{"prompt":"x","max_tokens":1,"read_me":{"priority":-5}}')).toBe("200");
  expect(await told(CHAT, `{"messages":${list(500, MESSAGE)},"max_tokens":1}`)).toMatch(/^(200|400 `context_length)/);
});
