// An engine that answers each request with chunks that a test chooses.

import {
  ReadMeEmitter,
  type AcceptedPrompt,
  type Engine,
  type EngineInfo,
  type GenerateChunk,
  type GenerateRequest,
  type RoutedPrompt,
} from "@readme-moe/core";
import { generationOf } from "./generation.ts";

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
  vocabSize: 100,
  contextTokens: 64,
  experts: ["law", "code"],
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
    route,
    tokenize: unscripted,
    detokenize: async (ids) => Array.from(ids, (id) => `<${id}>`).join(""),
    applyTemplate: unscripted,
    vocabulary: unscripted,
    stats: unscripted,
    whenFailed: () => new Promise(() => undefined),
    dispose: async () => undefined,
    [Symbol.asyncDispose]: async () => undefined,
  };
}
