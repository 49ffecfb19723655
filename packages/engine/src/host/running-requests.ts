// The requests of an engine that have not ended, on the caller's side.

import {
  type AllowedTokens,
  allowsToken,
  type AllowTokens,
  describeValue,
  type EngineInfo,
  functionOption,
  GenerationStream,
  integerOption,
  type LogitsContext,
  onceAborted,
  type ProcessLogits,
  type PromptProgress,
} from "@readme-moe/core";
import type { EngineChunk } from "../engine-parts.ts";
import { fromWire, type RequestNews, type ToWorker, type WireQuestion, type WireRequest } from "../protocol.ts";
import type { WorkerLink } from "./worker-link.ts";
import { toWireAllowance } from "../allowed-tokens.ts";

interface RunningRequest {
  readonly stream: GenerationStream<EngineChunk>;
  readonly functions: CallerFunctions;
  /** Stops listening to the caller's signal. */
  readonly detach: () => void;
  readonly onProgress: ((progress: PromptProgress) => void) | undefined;
  /** Aborted when the request has ended. */
  readonly leave: AbortController | undefined;
  /** Whether the worker has it; false while an earlier request of its id is still being ended there. */
  isSent: boolean;
}

/** Parts of a request that stay on this side. */
type OwnParts = Partial<Pick<RunningRequest, "functions" | "onProgress" | "leave">>;

interface RequestHost {
  readonly getLink: () => WorkerLink | undefined;
  readonly getInfo: () => Pick<EngineInfo, "vocabSize">;
  /** Returns the reason why no request can start while so many are under way. */
  refusal(numRequests: number): Error | undefined;
}

/** Passes requests to the worker, and its messages to their streams. */
export class RunningRequests {
  readonly #host: RequestHost;
  readonly #requests = new Map<string, RunningRequest>();
  /** Requests that the worker is ending, by id, and what sends the next one of the same id. */
  readonly #leaving = new Map<string, (() => void) | undefined>();

  constructor(host: RequestHost) {
    this.#host = host;
  }

  /** Begins a request. @throws {TypeError} if one of its id is under way */
  begin(
    wire: WireRequest,
    signal: AbortSignal | undefined,
    { functions = {}, onProgress, leave }: OwnParts = {},
  ): GenerationStream<EngineChunk> {
    const { requestId } = wire;
    if (this.#requests.has(requestId)) throw new TypeError(`Expected \`id\` to be new, got \`${requestId}\``);
    const stream = new GenerationStream<EngineChunk>(() => this.#abandon(requestId));
    const refusal: unknown = signal?.aborted ? signal.reason : this.#host.refusal(this.#requests.size);
    if (refusal !== undefined) {
      stream.fail(refusal);
      return stream;
    }
    const detach = onceAborted(signal, () => {
      stream.fail(signal?.reason);
      this.#abandon(requestId);
    });
    const request: RunningRequest = { stream, functions, onProgress, detach, leave, isSent: false };
    this.#requests.set(requestId, request);
    this.#host.getLink()?.hold();
    const send = (): void => {
      if (this.#requests.get(requestId) !== request) return;
      request.isSent = true;
      this.#host.getLink()?.post({ type: "generate", ...wire });
    };
    // Tokens of the earlier request are on their way.
    if (this.#leaving.has(requestId)) this.#leaving.set(requestId, send);
    else send();
    return stream;
  }

  receive(news: RequestNews): void {
    const { requestId } = news;
    if (news.type === "left") {
      const sendNext = this.#leaving.get(requestId);
      this.#leaving.delete(requestId);
      sendNext?.();
      return;
    }
    const request = this.#sent(requestId);
    if (!request) return;
    const { stream, onProgress } = request;
    switch (news.type) {
      case "accepted":
        stream.accept(news.prompt);
        return;
      case "progress":
        try {
          onProgress?.(news.progress);
        } catch (error) {
          stream.fail(error);
          this.#abandon(requestId, "error");
        }
        return;
      case "chunk":
        stream.push(news.chunk);
        if (news.chunk.usage) this.#forget(requestId)?.stream.end();
        return;
      case "failed":
        this.#forget(requestId)?.stream.fail(fromWire(news.error));
        return;
      default:
        throw new TypeError(`Unknown news: ${String(news satisfies never)}`);
    }
  }

  #sent(requestId: string): RunningRequest | undefined {
    const request = this.#requests.get(requestId);
    return request?.isSent ? request : undefined;
  }

  /** Calls a request's function and sends its answer. The request fails if the function does. */
  async answer(question: WireQuestion): Promise<void> {
    const { requestId } = question;
    const request = this.#sent(requestId);
    if (!request) return;
    try {
      const answer = await callFunction(request.functions, question, this.#host.getInfo().vocabSize);
      // The request may have ended during the call.
      if (answer && this.#requests.get(requestId) === request) this.#host.getLink()?.post(answer);
    } catch (error) {
      if (this.#requests.get(requestId) !== request) return;
      request.stream.fail(error);
      this.#abandon(requestId, "error");
    }
  }

  /** Ends all requests with an error; chunks that are not read yet are dropped. */
  failAll(error: Error): void {
    this.#leaving.clear();
    for (const requestId of Array.from(this.#requests.keys())) this.#forget(requestId)?.stream.fail(error);
  }

  /** Ends all requests with an error that comes after the chunks that are not read yet. */
  interruptAll(error: Error): void {
    this.#leaving.clear();
    for (const requestId of Array.from(this.#requests.keys())) this.#forget(requestId)?.stream.interrupt(error);
  }

  #abandon(requestId: string, reason: "abort" | "error" = "abort"): void {
    if (!this.#forget(requestId)?.isSent) return;
    this.#leaving.set(requestId, undefined);
    this.#host.getLink()?.post({ type: "abort", requestId, reason });
  }

  #forget(requestId: string): RunningRequest | undefined {
    const request = this.#requests.get(requestId);
    if (this.#requests.delete(requestId)) this.#host.getLink()?.release();
    request?.detach();
    request?.leave?.abort();
    return request;
  }
}

// Functions of a request, which the worker calls by messages, and the checks of what they return.

const MAX_DRAFT_TOKENS = 32;

export interface CallerFunctions {
  readonly processLogits?: ProcessLogits | undefined;
  readonly allowTokens?: AllowTokens | undefined;
}

/** @throws {TypeError} naming the function that is none */
export function callerFunctions(given: ProcessLogits | undefined): CallerFunctions {
  const processLogits = functionOption("processLogits", given);
  // Read once, so that the worker and this side agree on it.
  const allowTokens = functionOption("processLogits.allowTokens", processLogits?.allowTokens);
  return allowTokens ? { allowTokens } : { processLogits };
}

/**
 * Calls a function of a request.
 *
 * @returns the answer; nothing if the request has no such function
 * @throws {TypeError | RangeError} when the function's answer is wrong, and whatever it throws
 */
async function callFunction(
  { processLogits, allowTokens }: CallerFunctions,
  { questionId, context, ...question }: WireQuestion,
  vocabSize: number,
): Promise<ToWorker | undefined> {
  if ("logits" in question) {
    if (!processLogits) return undefined;
    return { type: "answer", questionId, answer: await processRow(processLogits, question.logits, context) };
  }
  if (!allowTokens) return undefined;
  const answer: unknown = await allowTokens({ ...context, draft: question.draft });
  return { type: "answer", questionId, answer: toWireAllowance(checkAllowed(answer, vocabSize)) };
}

/**
 * Calls a caller's function on a row of logits.
 *
 * @returns the answer, in memory that the function no longer uses, so that it can be transferred
 * @throws {TypeError | RangeError} when the function returns no row of the same length, and whatever it throws
 */
async function processRow(
  process: ProcessLogits,
  logits: Float32Array<ArrayBuffer>,
  context: LogitsContext,
): Promise<Float32Array<ArrayBuffer>> {
  const vocabSize = logits.length;
  const answer: unknown = await process(logits, context);
  const processed = answer === undefined ? logits : answer;
  if (!(processed instanceof Float32Array)) {
    const got = describeValue(processed);
    throw new TypeError(`Expected \`processLogits\` to return a Float32Array or nothing, got ${got}`);
  }
  if (processed.length !== vocabSize) {
    throw new RangeError(`Expected \`processLogits\` to give ${vocabSize} logits, got ${processed.length}`);
  }
  // The function may go on using an array of its own.
  return processed === logits ? logits : new Float32Array(processed);
}

/** @throws {TypeError | RangeError} naming what is wrong, the expectation and the value */
function checkAllowed(answer: unknown, vocabSize: number): AllowedTokens {
  if (typeof answer !== "object" || answer === null) throw wrong("{ draft, numForced, masks }", describeValue(answer));
  const { draft, numForced, masks } = answer as { readonly [Name in keyof AllowedTokens]?: unknown };
  if (!(draft instanceof Int32Array)) throw wrong("an Int32Array as `draft`", describeValue(draft));
  const most = MAX_DRAFT_TOKENS;
  if (draft.length > most) throw outOfRange(`at most ${most} tokens as \`draft\``, draft.length);
  for (const [index, id] of draft.entries()) integerOption(`draft[${index}] of allowTokens`, id, 0, vocabSize - 1);
  const forced = integerOption("numForced of allowTokens", numForced, 0, draft.length);
  if (!Array.isArray(masks)) throw wrong("a list of Int32Arrays as `masks`", describeValue(masks));
  if (masks.length !== 1 + draft.length) throw outOfRange(`${1 + draft.length} masks`, masks.length);
  const words = Math.ceil(vocabSize / 32);
  const checked = masks.map((mask: unknown, index) => {
    if (!(mask instanceof Int32Array)) throw wrong(`an Int32Array as \`masks[${index}]\``, describeValue(mask));
    if (mask.length !== words) throw outOfRange(`${words} words in \`masks[${index}]\``, mask.length);
    const id = draft[index];
    if (id !== undefined && !allowsToken(mask, id))
      throw outOfRange(`a mask that allows \`draft[${index}]\``, "one that does not");
    if (index < forced && !hasOneToken(mask, vocabSize)) throw outOfRange(`one bit in \`masks[${index}]\``, "more");
    return mask;
  });
  return { draft, numForced: forced, masks: checked };
}

function hasOneToken(mask: Int32Array, vocabSize: number): boolean {
  let count = 0;
  for (const [word, bits] of mask.entries()) {
    if (bits === 0) continue;
    const valid = vocabSize - 32 * word >= 32 ? bits : bits & (2 ** (vocabSize - 32 * word) - 1);
    if ((valid & (valid - 1)) !== 0) return false;
    if (valid !== 0 && ++count > 1) return false;
  }
  return count === 1;
}

function wrong(expected: string, got: string): TypeError {
  return new TypeError(`Expected \`allowTokens\` to give ${expected}, got ${got}`);
}

function outOfRange(expected: string, got: number | string): RangeError {
  return new RangeError(`Expected \`allowTokens\` to give ${expected}, got ${got}`);
}
