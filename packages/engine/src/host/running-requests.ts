// The requests of an engine that have not ended, on the caller's side.

import { GenerationStream, onceAborted } from "@readme-moe/core";
import type { EngineChunk } from "../engine-parts.ts";
import { callFunction, type CallerFunctions, type FunctionCall } from "./caller-functions.ts";
import { fromWire, type FromWorker, type WireRequest } from "../protocol.ts";
import type { WorkerLink } from "./worker-link.ts";

interface RunningRequest {
  readonly stream: GenerationStream<EngineChunk>;
  readonly functions: CallerFunctions;
  /** Stops listening to the caller's signal. */
  readonly detach: () => void;
  /** Ends the work for the request on this side. */
  readonly leave: AbortController | undefined;
}

/** Parts of a request that stay on this side. */
interface OwnParts {
  readonly functions?: CallerFunctions | undefined;
  /** Aborted when the request has ended. */
  readonly leave?: AbortController | undefined;
}

/** Engine of the requests. */
interface RequestHost {
  readonly link: WorkerLink | undefined;
  readonly vocabSize: number;
  /** Returns the reason why no request can start while so many are under way. */
  refusal(numRequests: number): Error | undefined;
}

/** Passes requests to the worker, and its messages to their streams. */
export class RunningRequests {
  readonly #host: RequestHost;
  readonly #requests = new Map<string, RunningRequest>();

  constructor(host: RequestHost) {
    this.#host = host;
  }

  /** Begins a request. @throws {TypeError} if one of its id is under way */
  begin(
    wire: WireRequest,
    signal: AbortSignal | undefined,
    { functions = {}, leave }: OwnParts = {},
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
    this.#requests.set(requestId, { stream, functions, detach, leave });
    this.#host.link?.hold();
    this.#host.link?.post({ type: "generate", ...wire });
    return stream;
  }

  /** Takes the results of a step. */
  receive({ accepted, chunks, failures }: FromWorker & { type: "step" }): void {
    for (const { requestId, ...prompt } of accepted) this.#requests.get(requestId)?.stream.accept(prompt);
    for (const { requestId, chunk } of chunks) {
      this.#requests.get(requestId)?.stream.push(chunk);
      if (chunk.usage) this.#forget(requestId)?.stream.end();
    }
    for (const { requestId, error } of failures) this.#forget(requestId)?.stream.fail(fromWire(error));
  }

  /** Calls a request's function and sends its answer. The request fails if the function does. */
  async answer(call: FunctionCall): Promise<void> {
    const { requestId } = call;
    const request = this.#requests.get(requestId);
    if (!request) return;
    try {
      const answer = await callFunction(request.functions, call, this.#host.vocabSize);
      // The request may have ended during the call.
      if (answer && this.#requests.get(requestId) === request) this.#host.link?.post(answer);
    } catch (error) {
      if (this.#requests.get(requestId) !== request) return;
      request.stream.fail(error);
      this.#abandon(requestId, "error");
    }
  }

  /** Ends all requests with an error; chunks that are not read yet are dropped. */
  failAll(error: Error): void {
    for (const requestId of Array.from(this.#requests.keys())) this.#forget(requestId)?.stream.fail(error);
  }

  /** Ends all requests with an error that comes after the chunks that are not read yet. */
  interruptAll(error: Error): void {
    for (const requestId of Array.from(this.#requests.keys())) this.#forget(requestId)?.stream.interrupt(error);
  }

  #abandon(requestId: string, reason: "abort" | "error" = "abort"): void {
    if (this.#forget(requestId)) this.#host.link?.post({ type: "abort", requestId, reason });
  }

  #forget(requestId: string): RunningRequest | undefined {
    const request = this.#requests.get(requestId);
    if (this.#requests.delete(requestId)) this.#host.link?.release();
    request?.detach();
    request?.leave?.abort();
    return request;
  }
}
