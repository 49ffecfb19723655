// node-llama-cpp with its own predictors of tokens.

import { pathToFileURL } from "node:url";
import type { Answer } from "./answer.ts";
import type { PlannedRequest } from "./plan.ts";

/** Used part of the library, which is not a dependency of this repository. */
interface Library {
  readonly getLlama: (options: object) => Promise<Llama>;
  readonly InputLookupTokenPredictor: new () => Predictor;
  readonly DraftSequenceTokenPredictor: new (draft: Sequence) => Predictor;
}

interface Llama {
  loadModel(options: object): Promise<Model>;
  dispose(): Promise<void>;
}

interface Model {
  createContext(options: object): Promise<Context>;
}

interface Context {
  getSequence(options?: object): Sequence;
  dispose(): Promise<void>;
}

interface Sequence {
  evaluate(tokens: readonly number[], options: object): AsyncIterable<number>;
  clearHistory(): Promise<void>;
  readonly tokenPredictions: { readonly validated: number; readonly refuted: number };
}

interface Predictor {
  updateInputTokens(tokens: readonly number[]): void;
}

/** Where a contender's drafts come from. */
type LlamaDrafts = "none" | "lookup" | "model";

export interface LlamaOptions {
  /** The library's main file. */
  readonly library: string;
  readonly model: string;
  /** Small model; needed for drafts of a model. */
  readonly draft: string | undefined;
  readonly threads: number;
  /** Most requests at once, and most tokens of each. */
  readonly sequences: number;
  readonly contextTokens: number;
}

interface LlamaContender {
  readonly drafts: LlamaDrafts;
  /** Answers requests at once, greedily. */
  readonly answers: (requests: readonly PlannedRequest[]) => Promise<readonly LlamaAnswer[]>;
}

interface LlamaAnswer extends Pick<Answer, "tokenIds" | "startMs" | "tokenMs"> {
  readonly draftTokens: number;
  readonly acceptedDraftTokens: number;
}

export interface LlamaContenders extends AsyncDisposable {
  readonly contenders: readonly LlamaContender[];
}

// A completely full context would shift its contents.
const SPARE_TOKENS = 32;

/** Opens the library with one context for each kind of drafts. */
export async function openLlama(options: LlamaOptions): Promise<LlamaContenders> {
  const { library, model: modelPath, draft, threads, sequences, contextTokens } = options;
  const found = (await import(pathToFileURL(library).href)) as Library;
  const llama = await found.getLlama({ build: "never", gpu: false, maxThreads: threads, logLevel: "error" });
  const size = { sequences, contextSize: contextTokens + SPARE_TOKENS, threads };
  const model = await llama.loadModel({ modelPath });
  const contenderOf = async (drafts: LlamaDrafts, predictor: () => Predictor | undefined): Promise<LlamaContender> => {
    const context = await model.createContext(size);
    const places = Array.from({ length: sequences }, () => {
      const tokenPredictor = predictor();
      return { tokenPredictor, sequence: context.getSequence(tokenPredictor && { tokenPredictor }) };
    });
    return { drafts, answers: (requests) => Promise.all(requests.map((one, at) => complete(places[at], one))) };
  };
  const contenders = [
    await contenderOf("none", () => undefined),
    await contenderOf("lookup", () => new found.InputLookupTokenPredictor()),
  ];
  if (draft !== undefined) {
    const draftContext = await (await llama.loadModel({ modelPath: draft })).createContext(size);
    contenders.push(
      await contenderOf("model", () => new found.DraftSequenceTokenPredictor(draftContext.getSequence())),
    );
  }
  return { contenders, [Symbol.asyncDispose]: () => llama.dispose() };
}

interface Place {
  readonly sequence: Sequence;
  readonly tokenPredictor: Predictor | undefined;
}

async function complete(place: Place | undefined, request: PlannedRequest): Promise<LlamaAnswer> {
  if (!place) throw new Error("Expected a sequence for this request, got none");
  const { sequence, tokenPredictor } = place;
  await sequence.clearHistory();
  tokenPredictor?.updateInputTokens(request.promptIds);
  const before = { ...sequence.tokenPredictions };
  const tokenIds: number[] = [];
  const tokenMs: number[] = [];
  const startMs = performance.now();
  for await (const id of sequence.evaluate(request.promptIds, { temperature: 0, yieldEogToken: true })) {
    tokenIds.push(id);
    tokenMs.push(performance.now());
    // As many tokens as ours, whether or not its own answer ends earlier.
    if (tokenIds.length === request.expected.tokenIds.length) break;
  }
  const { validated, refuted } = sequence.tokenPredictions;
  const acceptedDraftTokens = validated - before.validated;
  return {
    tokenIds,
    startMs,
    tokenMs,
    acceptedDraftTokens,
    draftTokens: acceptedDraftTokens + refuted - before.refuted,
  };
}
