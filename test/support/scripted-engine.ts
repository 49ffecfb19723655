// An engine that answers each request with chunks that a test chooses.

import {
  ReadMeEmitter,
  type AcceptedPrompt,
  type Engine,
  type EngineInfo,
  type GenerateChunk,
  type GenerateRequest,
  type RoutedPrompt,
  type Usage,
} from "@readme-moe/core";
import { readMe, type Admission } from "@readme-moe/express";
import express, { type RequestHandler } from "express";
import { onTestFinished } from "vitest";
import { identify } from "../../packages/express/src/http/request.ts";
import { generationOf } from "./generation.ts";
import { listen } from "./served-model.ts";

export interface ScriptedEngineOptions {
  /** Chunks of a request, or an error. */
  readonly answer: (request: GenerateRequest) => AsyncGenerator<GenerateChunk, void>;
  readonly accept?: (request: GenerateRequest) => Promise<AcceptedPrompt>;
  readonly route?: () => Promise<RoutedPrompt>;
  readonly info?: Partial<EngineInfo>;
}

const INFO: EngineInfo = {
  path: "/models/scripted",
  modelType: "llama",
  precision: "int8",
  task: "generate",
  vocabSize: 100,
  contextTokens: 64,
  experts: ["law", "code"],
  expertKind: "ffn",
  hasRouter: true,
  hasChatTemplate: true,
  chatTemplateKnowsTools: false,
  eosTokenIds: [0],
  maxNumSeqs: 4,
  kvCapacityTokens: 256,
};

const unscripted = (): Promise<never> => Promise.reject(new Error("Not part of the script"));

export function scriptedEngine({ answer, accept, route = unscripted, info }: ScriptedEngineOptions): Engine {
  return {
    info: { ...INFO, ...info },
    events: new ReadMeEmitter(),
    generate: (request) => generationOf(answer(request), accept?.(request)),
    embed: unscripted,
    rerank: unscripted,
    classify: unscripted,
    route,
    tokenize: unscripted,
    detokenize: async (ids) => Array.from(ids, (id) => `<${id}>`).join(""),
    applyTemplate: unscripted,
    vocabulary: unscripted,
    addExpert: unscripted,
    removeExpert: unscripted,
    stats: unscripted,
    whenFailed: () => new Promise(() => undefined),
    dispose: async () => undefined,
    [Symbol.asyncDispose]: async () => undefined,
  };
}

/** Waits for the next turn of the event loop. */
export const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

export const USAGE: Usage = {
  promptTokens: 10,
  completionTokens: 3,
  cachedTokens: 4,
  acceptedDraftTokens: 0,
  rejectedDraftTokens: 0,
  queuedMs: 0,
};

/** Makes a chunk of one token. */
export function chunkOf(choice: number, text: string, more: Partial<GenerateChunk> = {}): GenerateChunk {
  return { choice, text, tokens: [{ id: 5, expert: 1 }], ...more };
}

/** Accepts every prompt, with ten tokens. */
export const acceptTen = async (): Promise<AcceptedPrompt> => ({ promptTokens: 10, experts: new Uint16Array(10) });

/** Answers each request with these chunks, each in its own turn of the event loop. */
export function chunksInTurns(...chunks: readonly GenerateChunk[]): ScriptedEngineOptions {
  return {
    async *answer() {
      for (const one of chunks) {
        await nextTurn();
        yield one;
      }
    },
    route: async () => ({ tokenIds: Int32Array.of(7, 8, 9), experts: Uint16Array.of(0, 1, 1) }),
  };
}

export interface ScriptedServing {
  readonly admission?: Admission;
  /** Runs before the API, on requests that have their id. */
  readonly before?: RequestHandler;
}

/** Serves a scripted engine until the test ends. @returns the URL of completions */
export async function serveScripted(
  options: ScriptedEngineOptions,
  { admission, before }: ScriptedServing = {},
): Promise<string> {
  const app = express();
  if (before) app.use(identify, before);
  app.use(readMe.api({ engine: scriptedEngine(options), ...(admission ? { admission } : {}) }));
  const server = await listen(app);
  onTestFinished(() => server[Symbol.asyncDispose]());
  return `${server.url}/v1/completions`;
}
