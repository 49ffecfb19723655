// A request on the caller's side: its checks, its stream of chunks, and its signal.

import {
  checkTemplateValues,
  describeValue,
  expertIndex,
  integerOption,
  rejectUnknownKeys,
  resolveSamplingParams,
  type AcceptedPrompt,
  type ChatMessage,
  type ChatPrompt,
  type EngineInfo,
  type GenerateChunk,
  type GenerateRequest,
  type Generation,
  type Prompt,
  type TokenizeOptions,
} from "@readme-moe/core";
import { tooManyPredicted, type Calls, type WireChat, type WirePrompt, type WireRequest } from "../protocol.ts";
import { callerFunctions, type CallerFunctions } from "./caller-functions.ts";
import { wireResume } from "./resume.ts";

const NAMES = [
  "prompt",
  "params",
  "processLogits",
  "prediction",
  "resume",
  "expert",
  "priority",
  "client",
  "id",
  "signal",
] as const satisfies readonly (keyof GenerateRequest)[];

/**
 * Checks a request, converts it to a message, and takes out its functions.
 *
 * @param drawSeed - draws the seed of a request that names none
 * @throws {TypeError | RangeError} naming the option, the expectation and the value
 */
export function wireRequest(
  request: GenerateRequest,
  requestId: string,
  info: EngineInfo,
  drawSeed: () => number,
): { readonly wire: WireRequest; readonly functions: CallerFunctions } {
  if (typeof request !== "object" || request === null) {
    throw new TypeError(`Expected a request { prompt, … }, got ${describeValue(request)}`);
  }
  rejectUnknownKeys("a request", request, NAMES);
  const params = resolveSamplingParams(request.params ?? {}, info);
  const { priority = 0, client, expert } = request;
  if (typeof priority !== "number" || !Number.isFinite(priority)) {
    throw new TypeError(`Expected \`priority\` to be a finite number, got ${describeValue(priority)}`);
  }
  if (client !== undefined && typeof client !== "string") {
    throw new TypeError(`Expected \`client\` to be a text, got ${describeValue(client)}`);
  }
  checkExpert(expert, info);
  const functions = callerFunctions(request.processLogits);
  const wire: WireRequest = {
    requestId,
    prompt: wirePrompt(request.prompt, info),
    params,
    expert,
    priority,
    client,
    seed: params.seed ?? drawSeed(),
    prediction: wirePrediction(request.prediction, info),
    resume: wireResume(request.resume, params),
    processesLogits: functions.processLogits !== undefined,
    isBound: functions.allowTokens !== undefined,
  };
  return { wire, functions };
}

/** @throws {TypeError | RangeError} naming the option, the expectation and the value */
export function wireTokenize(prompt: string | ChatPrompt, options: TokenizeOptions): Calls["tokenize"]["args"] {
  if (typeof prompt !== "string" && (typeof prompt !== "object" || prompt === null || !("messages" in prompt))) {
    throw new TypeError(`Expected a text or { messages } to tokenize, got ${describeValue(prompt)}`);
  }
  rejectUnknownKeys("options of `tokenize`", options, ["addSpecialTokens", "maxTokens", "signal"]);
  const { addSpecialTokens, maxTokens = Infinity } = options;
  if (addSpecialTokens !== undefined && typeof addSpecialTokens !== "boolean") {
    throw new TypeError(`Expected \`addSpecialTokens\` to be true or false, got ${describeValue(addSpecialTokens)}`);
  }
  if (maxTokens !== Infinity) integerOption("maxTokens", maxTokens, 0);
  return { prompt: typeof prompt === "string" ? prompt : chatPrompt(prompt), addSpecialTokens, maxTokens };
}

/** Converts a prediction; a text is counted where it is tokenized. An empty one is none. */
function wirePrediction(
  prediction: GenerateRequest["prediction"],
  { vocabSize, contextTokens }: EngineInfo,
): WireRequest["prediction"] {
  if (prediction === undefined || prediction === "" || typeof prediction === "string") return prediction || undefined;
  if (typeof prediction !== "object" || prediction === null || typeof prediction.length !== "number") {
    throw new TypeError(`Expected \`prediction\` to be a text or token ids, got ${describeValue(prediction)}`);
  }
  const { length } = prediction;
  if (length > contextTokens) throw tooManyPredicted(contextTokens, String(length));
  if (length === 0) return undefined;
  return Int32Array.from({ length }, (_, index) =>
    integerOption(`prediction[${index}]`, prediction[index], 0, vocabSize - 1),
  );
}

export function wirePrompt(prompt: Prompt, { vocabSize }: Pick<EngineInfo, "vocabSize">): WirePrompt {
  if (typeof prompt === "string") return prompt;
  if (typeof prompt !== "object" || prompt === null) {
    throw new TypeError(`Expected \`prompt\` to be a text, token ids or { messages }, got ${describeValue(prompt)}`);
  }
  if ("messages" in prompt) return chatPrompt(prompt);
  return Int32Array.from({ length: prompt.length }, (_, index) =>
    integerOption(`prompt[${index}]`, prompt[index], 0, vocabSize - 1),
  );
}

function chatPrompt(prompt: ChatPrompt): WireChat {
  rejectUnknownKeys("`prompt`", prompt, ["messages", "template"]);
  return wireChat(prompt.messages, prompt.template);
}

/** @throws {ReadMeError} `ERR_CHAT_TEMPLATE` on values that are nested too deep to be sent */
export function wireChat(messages: readonly ChatMessage[], template: Readonly<Record<string, unknown>> = {}): WireChat {
  checkTemplateValues(messages, template);
  return { messages, template };
}

/** @throws {RangeError} on an unknown expert; names the known ones */
export function checkExpert(
  expert: string | number | undefined,
  { experts, hasRouter }: Pick<EngineInfo, "experts" | "hasRouter">,
): void {
  if (expert === undefined || (expert === "router" && hasRouter)) return;
  expertIndex(experts, expert);
}

/** Buffers the chunks of one request until its only reader takes them. */
export class GenerationStream implements Generation {
  readonly accepted: Promise<AcceptedPrompt>;
  readonly #onLeft: () => void;
  readonly #chunks: GenerateChunk[] = [];
  readonly #waiting: (() => void)[] = [];
  #end: { readonly error?: unknown } | undefined;
  #accept!: (prompt: AcceptedPrompt) => void;
  #refuse!: (error: unknown) => void;

  /** @param onLeft - called when the reader leaves before the end */
  constructor(onLeft: () => void) {
    this.#onLeft = onLeft;
    this.accepted = new Promise((resolve, reject) => ([this.#accept, this.#refuse] = [resolve, reject]));
    // Most readers use the chunks only.
    this.accepted.catch(() => undefined);
  }

  accept(prompt: AcceptedPrompt): void {
    this.#accept(prompt);
  }

  push(chunk: GenerateChunk): void {
    if (this.#end) return;
    this.#chunks.push(chunk);
    this.#wake();
  }

  /** Ends the stream behind the chunks that are not read yet. */
  end(): void {
    this.#end ??= {};
    this.#wake();
  }

  /** Ends the stream with an error, and drops chunks that are not read yet. */
  fail(error: unknown): void {
    if (this.#end) return;
    this.#chunks.length = 0;
    this.#end = { error };
    this.#refuse(error);
    this.#wake();
  }

  /** Ends the stream with an error, behind the chunks that are not read yet. */
  interrupt(error: unknown): void {
    this.#end ??= { error };
    this.#refuse(error);
    this.#wake();
  }

  async next(): Promise<IteratorResult<GenerateChunk, undefined>> {
    for (;;) {
      const chunk = this.#chunks.shift();
      if (chunk) return { done: false, value: chunk };
      if (this.#end) {
        const end = this.#end;
        this.#end = {};
        // A caller's function may throw `undefined`.
        if ("error" in end) throw end.error;
        return { done: true, value: undefined };
      }
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
  }

  async return(): Promise<IteratorResult<GenerateChunk, undefined>> {
    if (!this.#end) this.#onLeft();
    this.#end = {};
    this.#refuse(new DOMException("The iteration was left before the prompt was accepted", "AbortError"));
    this.#chunks.length = 0;
    this.#wake();
    return { done: true, value: undefined };
  }

  #wake(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}

// Requests often share a signal, such as a client's or Ctrl-C's. Each signal gets one listener for all of them.
const callbacksOf = new WeakMap<AbortSignal, Set<() => void>>();

/**
 * Calls back when the signal aborts. Never calls back for a signal that has aborted before.
 *
 * @returns a function that stops listening
 */
export function onceAborted(signal: AbortSignal | undefined, callback: () => void): () => void {
  if (!signal) return () => undefined;
  const callbacks = callbacksOf.get(signal) ?? listen(signal);
  // The same function may be given twice, and stopped once.
  const own = (): void => callback();
  callbacks.add(own);
  return () => {
    callbacks.delete(own);
    if (callbacks.size > 0 || callbacksOf.get(signal) !== callbacks) return;
    signal.removeEventListener("abort", callAll);
    callbacksOf.delete(signal);
  };
}

function listen(signal: AbortSignal): Set<() => void> {
  const callbacks = new Set<() => void>();
  callbacksOf.set(signal, callbacks);
  signal.addEventListener("abort", callAll, { once: true });
  return callbacks;
}

function callAll({ target }: Event): void {
  if (!(target instanceof AbortSignal)) return;
  const callbacks = callbacksOf.get(target) ?? [];
  callbacksOf.delete(target);
  for (const callback of callbacks) callback();
}
