import { StopAutomaton, type GenerateChunk } from "@readme-moe/core";
import type { WireAccepted, WireRequest } from "../protocol.ts";
import type { Sequence } from "../sequence.ts";
import { promptIds } from "./calls.ts";
import type { OpenedEngine } from "./open-parts.ts";

interface RequestEntry {
  sequences: readonly Sequence[];
  numFinished: number;
  isAccepted: boolean;
  /** Ends what goes on before there are sequences. */
  readonly leave: AbortController;
}

/** Requests that are under way: which sequences belong to each, and what all of them used. */
export class RequestBook {
  readonly #opened: OpenedEngine;
  readonly #onFailed: (requestId: string, error: unknown) => void;
  readonly #requests = new Map<string, RequestEntry>();
  #arrivals = 0;

  constructor(opened: OpenedEngine, onFailed: (requestId: string, error: unknown) => void) {
    this.#opened = opened;
    this.#onFailed = onFailed;
  }

  /** Makes a request's sequences. What is wrong with it is told to `onFailed`. */
  async begin(request: WireRequest): Promise<void> {
    const { requestId, params } = request;
    const entry: RequestEntry = { sequences: [], numFinished: 0, isAccepted: false, leave: new AbortController() };
    this.#requests.set(requestId, entry);
    try {
      const tokenIds = await promptIds(this.#opened, request.prompt, entry.leave.signal);
      const router = await this.#opened.routerFor(request.expert);
      const stops = new StopAutomaton(params.stop);
      if (this.#requests.get(requestId) !== entry) return; // aborted meanwhile
      entry.sequences = Array.from({ length: params.n }, (_, choice) => {
        const id = params.n === 1 ? requestId : `${requestId}/${choice}`;
        const arrival = this.#arrivals++;
        const { priority, client, seed, processesLogits } = request;
        const start = {
          id,
          requestId,
          choice,
          arrival,
          arrivalMs: performance.now(),
          priority,
          client,
          params,
          seed,
          stops,
        };
        return this.#opened.core.add({ ...start, promptIds: tokenIds, processesLogits }, router);
      });
    } catch (error) {
      if (this.#requests.get(requestId) === entry) this.#onFailed(requestId, error);
    }
  }

  /** @returns the prompt of the sequence's request; nothing if another choice was accepted before */
  accept({ requestId, promptTokens, experts }: Sequence): WireAccepted | undefined {
    const entry = this.#requests.get(requestId);
    if (!entry || entry.isAccepted) return undefined;
    entry.isAccepted = true;
    return { requestId, promptTokens, experts: Uint16Array.from(experts) };
  }

  abort(requestId: string, reason?: "abort" | "error"): void {
    this.#requests.get(requestId)?.leave.abort();
    if (this.#requests.delete(requestId)) this.#opened.core.abort(requestId, reason);
  }

  /** Adds the usage to the last chunk of a request, and forgets it then. */
  complete(requestId: string, chunk: GenerateChunk): GenerateChunk {
    const entry = this.#requests.get(requestId);
    if (!entry || !chunk.finishReason) return chunk;
    entry.numFinished++;
    const { sequences, numFinished } = entry;
    if (numFinished < sequences.length) return chunk;
    this.#requests.delete(requestId);
    const sum = (count: (sequence: Sequence) => number): number =>
      sequences.reduce((total, sequence) => total + count(sequence), 0);
    const usage = {
      promptTokens: sequences[0]?.promptTokens ?? 0,
      completionTokens: sum(({ completionTokens }) => completionTokens),
      cachedTokens: sum(({ cachedTokens }) => cachedTokens),
      queuedMs: Math.max(...sequences.map(({ startedMs, arrivalMs }) => (startedMs ?? arrivalMs) - arrivalMs)),
    };
    return { ...chunk, usage };
  }
}
