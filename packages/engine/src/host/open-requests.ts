// Requests of an engine that have not ended, and what arrives for them.

import type { GenerationStream } from "@readme-moe/core";
import { fromWire, type FromWorker } from "../protocol.ts";
import type { CallerFunctions } from "./caller-functions.ts";

/** A request that has not ended. */
export interface OpenRequest {
  readonly stream: GenerationStream;
  readonly functions: CallerFunctions;
  /** Stops listening to the caller's signal. */
  readonly detach: () => void;
}

/** Results of a step of the worker. */
type StepResults = Omit<FromWorker & { type: "step" }, "type" | "events">;

export class OpenRequests {
  readonly #requests = new Map<string, OpenRequest>();
  readonly #onEnd: () => void;

  /** @param onEnd - called when a request has ended */
  constructor(onEnd: () => void) {
    this.#onEnd = onEnd;
  }

  get size(): number {
    return this.#requests.size;
  }

  get(requestId: string): OpenRequest | undefined {
    return this.#requests.get(requestId);
  }

  add(requestId: string, request: OpenRequest): void {
    this.#requests.set(requestId, request);
  }

  /** Removes a request. @returns nothing if it had ended before */
  remove(requestId: string): OpenRequest | undefined {
    const request = this.#requests.get(requestId);
    if (!this.#requests.delete(requestId)) return undefined;
    this.#onEnd();
    request?.detach();
    return request;
  }

  /** Gives the results of a step to the readers of their requests. */
  publish({ accepted, chunks, failures }: StepResults): void {
    for (const { requestId, ...prompt } of accepted) this.#requests.get(requestId)?.stream.accept(prompt);
    for (const { requestId, chunk } of chunks) {
      this.#requests.get(requestId)?.stream.push(chunk);
      if (chunk.usage) this.remove(requestId)?.stream.end();
    }
    for (const { requestId, error } of failures) this.remove(requestId)?.stream.fail(fromWire(error));
  }

  /** Ends all requests with an error; chunks that are not read yet are dropped. */
  failAll(error: unknown): void {
    for (const requestId of Array.from(this.#requests.keys())) this.remove(requestId)?.stream.fail(error);
  }

  /** Ends all requests with an error that comes after the chunks that are not read yet. */
  interruptAll(error: unknown): void {
    for (const requestId of Array.from(this.#requests.keys())) this.remove(requestId)?.stream.interrupt(error);
  }
}
