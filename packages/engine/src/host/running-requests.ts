// The requests of an engine that have not ended, on the caller's side.

import { type EngineInfo, GenerationStream, onceAborted, type PromptProgress } from "@readme-moe/core";
import type { EngineChunk } from "../engine-parts.ts";
import { callFunction, type CallerFunctions } from "./caller-functions.ts";
import { fromWire, type RequestNews, type WireQuestion, type WireRequest } from "../protocol.ts";
import type { WorkerLink } from "./worker-link.ts";

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
