// A server whose engines answer the same to every request, and its answers as they come over HTTP.

import type { Engine } from "@readme-moe/core";
import { readMe } from "@readme-moe/express";
import express from "express";
import { exact } from "./exact-bodies.ts";
import { acceptTen, chunkOf, chunksInTurns, scriptedEngine, USAGE } from "./scripted-engine.ts";
import { listen } from "./served-model.ts";

/** Printable characters, a token each; id 0 ends answers. */
const VOCABULARY = {
  vocabSize: 100,
  bytes: Uint8Array.from({ length: 95 }, (_, index) => 32 + index),
  offsets: Uint32Array.from({ length: 101 }, (_, index) => Math.min(95, Math.max(0, index - 1))),
  eosTokenIds: [0],
};
const TOP = [
  { id: 41, text: "H", logprob: -0.5 },
  { id: 42, text: "I", logprob: -1 },
];
const MARKS = new Map<unknown, number>([
  ["<think>", 97],
  ["</think>", 98],
]);
/** A call as the model writes it. */
export const CALL = '<tool_call>\n{"name": "light", "arguments": {"on": true}}\n</tool_call>';

/** Reasons, writes and calls a tool where it may; else writes two tokens with their log-probabilities. */
const ENGINE: Engine = {
  ...scriptedEngine({
    answer: (request) => {
      const { params: { logprobs } = {} } = request;
      const script =
        logprobs === undefined
          ? chunksInTurns(
              chunkOf(0, "<think>Hm</think>", { tokens: [{ id: 97 }, { id: 5 }, { id: 98 }] }),
              chunkOf(0, `I do.${CALL}`),
              chunkOf(0, "", { finishReason: "stop", usage: USAGE }),
            )
          : chunksInTurns(
              chunkOf(0, "H", { tokens: [{ id: 41, logprob: -0.5, topLogprobs: TOP }] }),
              chunkOf(0, "i", {
                tokens: [{ id: 74, logprob: -2, topLogprobs: TOP }],
                finishReason: "length",
                usage: USAGE,
              }),
            );
      return script.answer(request);
    },
    accept: acceptTen,
    info: { reasoningForm: "think" },
  }),
  vocabulary: async () => VOCABULARY,
  applyTemplate: async () => "[assistant]",
  tokenize: async (text) => (MARKS.has(text) ? Int32Array.of(MARKS.get(text) ?? 0) : Int32Array.of(1, 2)),
  detokenize: async (ids) => Array.from(ids, (id) => String.fromCharCode(31 + id)).join(""),
};
const POOLING_USAGE = { promptTokens: 7, cachedTokens: 0, queuedMs: 0 };
const EMBEDDER: Engine = {
  ...scriptedEngine({
    ...chunksInTurns(),
    info: {
      task: "embed",
      path: "/models/embedder",
      embedding: { dimensions: 2, prompts: {}, defaultPrompt: undefined, isNormalised: true } as never,
    },
  }),
  embed: async ({ inputs }) => ({
    embeddings: inputs.map((_, index) => Float32Array.of(0.5, -index)),
    usage: POOLING_USAGE,
  }),
  tokenize: async () => Int32Array.of(1, 2),
};
const RANKER: Engine = {
  ...scriptedEngine({ ...chunksInTurns(), info: { task: "rerank", path: "/models/ranker" } }),
  rerank: async ({ documents }) => ({ scores: documents.map((_, index) => 0.25 * index), usage: POOLING_USAGE }),
  tokenize: async () => Int32Array.of(1, 2),
};

/** A server of a generator, an embedder and a ranker, with the key `a`. */
export interface ExactServer extends AsyncDisposable {
  readonly url: string;
  /** Sends a request with the key. @param body - JSON, a text that is sent as it is, or a form */
  readonly ask: (path: string, body?: object | string, method?: string) => Promise<Response>;
  /** Sends a request. @returns its answer as it came, with its status where that is not 200 */
  readonly whole: (path: string, body?: object | string, method?: string) => Promise<unknown>;
  /** Sends a request for a stream. @returns its lines or the data of its events, exact */
  readonly streamed: (path: string, body: object) => Promise<readonly unknown[]>;
}

/** @param folder - of batches */
export async function startExactServer(folder: string): Promise<ExactServer> {
  const models = { scripted: ENGINE, embedder: EMBEDDER, ranker: RANKER };
  const server = await listen(express().use(readMe({ models, ollama: true, keys: { ann: "a" }, batches: { folder } })));
  const { url } = server;
  const ask: ExactServer["ask"] = (path, body, method = body === undefined ? "GET" : "POST") => {
    const type = body instanceof FormData ? undefined : { "content-type": "application/json" };
    const isRaw = body instanceof FormData || typeof body === "string";
    const sent = isRaw || body === undefined ? body : JSON.stringify(body);
    return fetch(`${url}${path}`, { method, headers: { authorization: "Bearer a", ...type }, body: sent ?? null });
  };
  return {
    url,
    ask,
    async whole(path, body, method) {
      const answer = await ask(path, body, method);
      const json = (await answer.json()) as object;
      return answer.status === 200 ? json : { status: answer.status, ...json };
    },
    async streamed(path, body) {
      const text = await (await ask(path, { ...body, stream: true })).text();
      const isLines = path.startsWith("/api");
      return exact(
        ...partsOf(text, isLines ? "\n" : "\n\n").map((part) => (isLines ? JSON.parse(part) : dataOf(part)) as unknown),
      );
    },
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}

function partsOf(text: string, end: string): readonly string[] {
  if (!text.endsWith(end)) throw new Error("Expected a stream that ends with a whole part");
  return text.slice(0, -end.length).split(end);
}

/** Returns the data of an event, whose name has to be its type. */
function dataOf(event: string): unknown {
  const [, name, data = ""] = /^(?:event: (.+)\n)?data: (.+)$/.exec(event) ?? [];
  const json = (data === "[DONE]" ? data : JSON.parse(data)) as { readonly type?: string };
  if (name !== undefined && json.type !== name) throw new Error(`Expected the type ${name}, got ${json.type}`);
  return json;
}
