// A server in little memory whose answers have many log-probabilities. Prints for each answer its status, whether it
// arrived as a whole, and the longest text that was made of it at once.
//
//   long-answers.ts <number of choices> <tokens of each>

import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { ReadMeEmitter, type Engine, type GenerateChunk, type GenerateRequest } from "@readme-moe/core";
import { Admission, readMe } from "@readme-moe/express";
import express from "express";

const [numChoices = 1, numTokens = 1] = process.argv.slice(2).map(Number);
const VOCAB_SIZE = 64;
const textOf = (id: number): string => ` word${id}`;
const texts = Array.from({ length: VOCAB_SIZE }, (_, id) => textOf(id));
const usage = {
  promptTokens: 1,
  completionTokens: numTokens,
  cachedTokens: 0,
  acceptedDraftTokens: 0,
  rejectedDraftTokens: 0,
  queuedMs: 0,
};

async function* answer({ params }: GenerateRequest): AsyncGenerator<GenerateChunk, void> {
  const choices = params?.n ?? 1;
  const most = params?.maxTokens ?? 1;
  for (let at = 0; at < most; at++) {
    await new Promise((resolve) => setImmediate(resolve));
    for (let choice = 0; choice < choices; choice++) {
      const id = (at + choice) % VOCAB_SIZE;
      const topLogprobs = Array.from({ length: 20 }, (_, rank) => {
        const one = (id + rank) % VOCAB_SIZE;
        return { id: one, text: textOf(one), logprob: -1.234567890123 - rank };
      });
      const isLast = at + 1 === most;
      yield {
        choice,
        text: textOf(id),
        tokens: [{ id, logprob: -1.234567890123, topLogprobs }],
        ...(isLast ? { finishReason: "length" as const } : {}),
        ...(isLast && choice + 1 === choices ? { usage } : {}),
      };
    }
  }
}

const not = (): Promise<never> => Promise.reject(new Error("Not part of this program"));
const engine: Engine = {
  info: {
    path: "/models/long",
    modelType: "llama",
    precision: "int8",
    task: "generate",
    vocabSize: VOCAB_SIZE,
    contextTokens: 100_000,
    experts: ["one"],
    expertKind: "ffn",
    hasRouter: false,
    hasChatTemplate: true,
    chatTemplateKnowsTools: false,
    eosTokenIds: [0],
    maxNumSeqs: 4,
    kvCapacityTokens: 256,
  },
  events: new ReadMeEmitter(),
  generate: (request) =>
    Object.assign(answer(request), { accepted: Promise.resolve({ promptTokens: 1, experts: new Uint16Array(1) }) }),
  embed: not,
  rerank: not,
  classify: not,
  route: not,
  tokenize: not,
  detokenize: async (ids) => Array.from(ids, textOf).join(""),
  applyTemplate: not,
  vocabulary: async () => ({
    vocabSize: VOCAB_SIZE,
    bytes: new Uint8Array(Buffer.from(texts.join(""))),
    offsets: Uint32Array.from([0, ...texts.map((_, id) => Buffer.byteLength(texts.slice(0, id + 1).join("")))]),
    eosTokenIds: [0],
  }),
  addExpert: not,
  removeExpert: not,
  stats: not,
  whenFailed: () => new Promise(() => undefined),
  dispose: async () => undefined,
  [Symbol.asyncDispose]: async () => undefined,
};

const admission = new Admission();
const server = createServer(express().use(readMe.api({ engine, admission })));
await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
const { port } = server.address() as AddressInfo;

let longest = 0;
const { stringify } = JSON;
JSON.stringify = new Proxy(stringify, {
  apply(target, self, args) {
    const text: unknown = Reflect.apply(target, self, args);
    if (typeof text === "string") longest = Math.max(longest, text.length);
    return text;
  },
});

const messages = [{ role: "user", content: "x" }];
const chat = { messages, n: numChoices, max_tokens: numTokens, logprobs: true, top_logprobs: 20 };
const completion = { prompt: "x", n: numChoices, max_tokens: numTokens, logprobs: 20 };
const response = { input: "x", max_output_tokens: numChoices * numTokens, top_logprobs: 20 };
const ASKED: readonly (readonly [path: string, body: object])[] = [
  ["/v1/chat/completions", chat],
  ["/v1/completions", completion],
  ["/v1/responses", { ...response, store: false }],
  ["/v1/responses", { ...response, store: false, stream: true }],
];
for (const [path, body] of ASKED) {
  longest = 0;
  const reply = await fetch(`http://127.0.0.1:${port}${path}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: stringify(body),
  });
  let bytes = 0;
  let end = "";
  for await (const part of reply.body ?? []) {
    bytes += (part as Uint8Array).length;
    end = (end + Buffer.from(part as Uint8Array).toString()).slice(-20);
  }
  const length = reply.headers.get("content-length");
  const isWhole = (length === null ? bytes > 1_000_000 : Number(length) === bytes) && /\}\s*$/.test(end);
  const { bytes: reserved } = admission.stats;
  console.log(stringify({ path, status: reply.status, isWhole, isShort: longest < 2_000_000, reserved }));
}
server.close();
server.closeAllConnections();
