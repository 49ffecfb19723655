// The calls of `Calls`, answered on the worker's side: each once, and callers may cancel them.

import { type EngineVocabulary, ReadMeError } from "@readme-moe/core";
import type { ModelConfig, Tokenizer } from "@readme-moe/model";
import {
  type CallName,
  type Calls,
  type FromWorker,
  toWire,
  type ToWorker,
  type WireKept,
  type WirePrompt,
} from "../protocol.ts";
import { schedulerOf } from "../engine-options.ts";
import {
  encoding,
  promptIds,
  type ReadingEngine,
  routedPrompt,
  type RunningEngine,
  type WorkerRequests,
} from "./requests.ts";

type Answers<Engine, Name extends CallName> = {
  readonly [Each in Name]: (
    engine: Engine,
    args: Calls[Each]["args"],
    signal: AbortSignal,
  ) => Calls[Each]["result"] | Promise<Calls[Each]["result"]>;
};

/** Answers to calls about prompts, which need no weights. */
const READING_ANSWERS: Answers<ReadingEngine, "tokenize" | "detokenize" | "applyTemplate" | "vocabulary" | "route"> = {
  tokenize: (engine, { prompt, ...limits }, signal) => engine.slices.begin(encoding(engine, prompt, limits), signal),
  detokenize: ({ text }, { tokenIds }) => text.tokenizer.decode(tokenIds),
  applyTemplate: ({ text, model }, { messages, template }) => {
    if (text.chatTemplate) return text.chatTemplate.render(messages, template);
    throw new ReadMeError("ERR_CHAT_TEMPLATE", `${model.path}: has no chat template; give it a plain prompt`);
  },
  vocabulary: ({ text, model }) => engineVocabulary(text.tokenizer, model.config),
  route: async (engine, { prompt, expert }, signal) => {
    const isWhole = engine.model.config.pooling !== undefined;
    // Whether a text that is too long is cut or refused is a matter of its request.
    const cuts = isWhole || undefined;
    return routedPrompt(engine, await promptIds(engine, prompt, signal, { isWhole, cuts }), expert);
  },
};

/** An engine with its running requests. */
export interface ServingEngine extends RunningEngine {
  readonly requests: WorkerRequests;
}

const ANSWERS: Answers<ServingEngine, CallName> = {
  ...READING_ANSWERS,
  keepPrompt,
  savePrompt: ({ keptPrompts }, { keptId }) => keptPrompts.save(keptId),
  releasePrompt: ({ keptPrompts }, { keptId }) => keptPrompts.release(keptId),
  openMaskedHead: ({ maskedHead }) => maskedHead.open(),
  maskedLogits: ({ maskedHead, slices }, { states }, signal) =>
    slices.begin(maskedHead.opened.logitsInSteps(states), signal),
  setScheduling: async ({ core }, options) => {
    core.scheduler = await schedulerOf(options);
  },
  addExpert: (engine, { name, path }) => engine.addExpert(name, path),
  removeExpert: (engine, { name }) => engine.removeExpert(name),
  setExpertCacheBytes: async ({ residency }, { bytes }) => {
    if (!residency.streamed) {
      throw new TypeError("Expected an engine that was opened with `expertCacheBytes`; all its experts are in memory");
    }
    await residency.streamed.setBudget(bytes);
  },
  drain: ({ requests }) => requests.drain(),
  stats: ({ core }) => ({ ...core.stats(), residentBytes: process.memoryUsage.rss() }),
};

export async function answerCall<Name extends CallName>(
  engine: ServingEngine | ReadingEngine,
  name: Name,
  args: Calls[Name]["args"],
  signal: AbortSignal,
): Promise<unknown> {
  const canAnswer = "core" in engine || name in READING_ANSWERS;
  if (!canAnswer) throw new TypeError(`Expected a call about prompts, got \`${name}\``);
  // A reader of prompts has all that calls about prompts need.
  return ANSWERS[name](engine as ServingEngine, args, signal);
}

/** Collects the bytes of a model's tokens, as its tokenizer decodes them. */
export function engineVocabulary(
  tokenizer: Pick<Tokenizer, "tokenBytes" | "isSpecial">,
  { vocabSize, eosTokenIds }: Pick<ModelConfig, "vocabSize" | "eosTokenIds">,
): EngineVocabulary {
  const ends = new Set(eosTokenIds);
  const pieces = Array.from({ length: vocabSize }, (_, id) =>
    tokenizer.isSpecial(id) || ends.has(id) ? new Uint8Array() : tokenizer.tokenBytes(id),
  );
  const offsets = new Uint32Array(vocabSize + 1);
  let numBytes = 0;
  for (const [id, { length }] of pieces.entries()) offsets[id + 1] = numBytes += length;
  const bytes = new Uint8Array(numBytes);
  for (const [id, piece] of pieces.entries()) bytes.set(piece, offsets[id]);
  return { vocabSize, bytes, offsets, eosTokenIds };
}

async function keepPrompt(
  engine: RunningEngine,
  { keptId, prompt, expert }: Calls["keepPrompt"]["args"],
  signal: AbortSignal,
): Promise<WireKept> {
  const tokenIds = await beginningIds(engine, prompt, signal);
  const { experts } = await routedPrompt(engine, tokenIds, expert);
  const kept = await engine.keptPrompts.keep(keptId, { tokenIds: Array.from(tokenIds), experts: Array.from(experts) });
  if (signal.aborted) engine.keptPrompts.release(keptId);
  return kept;
}

/**
 * Tokenizes what a prompt begins with. A chat that waits for its user begins every chat with these messages: templates
 * may put a system message anywhere, so two chats are compared.
 */
async function beginningIds(engine: RunningEngine, prompt: WirePrompt, signal: AbortSignal): Promise<Int32Array> {
  const isChat = typeof prompt === "object" && "messages" in prompt;
  if (!isChat || prompt.messages.at(-1)?.role === "user") return promptIds(engine, prompt, signal);
  const { messages, template } = prompt;
  const chats = ["1", "What?"].map((content) => ({ messages: [...messages, { role: "user", content }], template }));
  const [first, second] = await Promise.all(chats.map((chat) => promptIds(engine, chat, signal)));
  return commonBeginning(first ?? new Int32Array(), second ?? new Int32Array());
}

/** Returns the tokens that two lists begin with. */
export function commonBeginning(first: Int32Array, second: Int32Array): Int32Array {
  const differs = first.findIndex((id, at) => second[at] !== id);
  return first.slice(0, differs < 0 ? first.length : differs);
}

type Call = ToWorker & { type: "call" };

/** Calls without an answer yet. */
export class OpenCalls {
  readonly #send: (message: FromWorker) => void;
  readonly #cancels = new Map<number, AbortController>();

  constructor(send: (message: FromWorker) => void) {
    this.#send = send;
  }

  /** Answers a call with what `work` returns or throws. @param work - its signal aborts when the caller cancels */
  async answer({ callId }: Call, work: (signal: AbortSignal) => Promise<unknown>): Promise<void> {
    const cancel = new AbortController();
    this.#cancels.set(callId, cancel);
    try {
      this.#send({ type: "result", callId, value: await work(cancel.signal) });
    } catch (error) {
      this.#send({ type: "error", callId, error: toWire(error) });
    } finally {
      this.#cancels.delete(callId);
    }
  }

  cancel(callId: number): void {
    this.#cancels.get(callId)?.abort();
  }
}
