// What an engine's events tell of the API's own requests; one set of listeners per engine.

import type { Engine } from "@readme-moe/core";

export interface WatchedRequest {
  /** The number of its prompt's tokens is known. */
  readonly onPromptTokens: (promptTokens: number) => void;
  /** The experts of its prompt's tokens are known; told of each choice. */
  readonly onRouted: (experts: ArrayLike<number>) => void;
  /** A sequence of it waited this long for room. */
  readonly onQueuedMs: (queuedMs: number) => void;
}

const watches = new WeakMap<Engine, Map<string, WatchedRequest>>();

/** @returns stops it */
export function watchRequest(engine: Engine, requestId: string, request: WatchedRequest): () => void {
  const watch = watches.get(engine) ?? listen(engine);
  watch.set(requestId, request);
  return () => void watch.delete(requestId);
}

function listen(engine: Engine): Map<string, WatchedRequest> {
  const watch = new Map<string, WatchedRequest>();
  watches.set(engine, watch);
  // Sequences of a request with several choices are `<request>/<choice>`.
  const requestOf = (sequenceId: string): WatchedRequest | undefined => watch.get(sequenceId.split("/")[0] as string);
  engine.events.on("sequence:queued", ({ sequenceId, promptTokens }) =>
    requestOf(sequenceId)?.onPromptTokens(promptTokens),
  );
  engine.events.on("router:routed", ({ sequenceId, position, experts }) => {
    // The others are of tokens of the answer.
    if (position === 0) requestOf(sequenceId)?.onRouted(experts);
  });
  engine.events.on("sequence:finished", ({ sequenceId, queuedMs }) => requestOf(sequenceId)?.onQueuedMs(queuedMs));
  return watch;
}
