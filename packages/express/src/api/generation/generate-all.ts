// One request of a client: several prompts with several choices each, as one stream of pieces.

import type { GenerateChunk } from "@readme-moe/core";
import { callerError, engineError, grammarError } from "../../http/errors.ts";
import { watchRequest } from "./engine-watch.ts";
import { merge } from "./merge.ts";
import type { GenerationPlan } from "./plan.ts";

export interface Piece extends GenerateChunk {
  /** Of the choice, among those of all prompts. */
  readonly index: number;
  readonly prompt: number;
}

export interface GenerationListeners {
  /** A sequence waited this long for room. */
  readonly onQueuedMs: (queuedMs: number) => void;
  /** Of one of the prompts, once each. */
  readonly onPromptTokens: (promptTokens: number) => void;
  /** The experts of a prompt's tokens, of each of its choices. */
  readonly onRouted: (experts: ArrayLike<number>) => void;
}

/**
 * @throws {ApiError} when the engine refuses or fails
 * @throws the reason of `signal`
 */
export async function* generateAll(
  plan: GenerationPlan,
  signal: AbortSignal,
  { onQueuedMs, onPromptTokens, onRouted }: GenerationListeners,
): AsyncGenerator<Piece, void, undefined> {
  const { engine, prompts, promptParam, params, expert, priority, processLogits } = plan;
  const onKnown = oncePerPrompt(onPromptTokens);
  const ids = prompts.map((_, index) => (prompts.length === 1 ? plan.id : `${plan.id}.${index}`));
  const unwatch = ids.map((id, index) =>
    watchRequest(engine, id, { onQueuedMs, onRouted, onPromptTokens: (count) => onKnown(index, count) }),
  );
  const sources: AsyncIterator<GenerateChunk>[] = [];
  try {
    for (const [index, prompt] of prompts.entries()) {
      const id = ids[index] as string;
      sources.push(engine.generate({ prompt, params, processLogits, expert, priority, id, signal }));
    }
    for await (const [prompt, chunk] of merge(sources)) {
      yield { ...chunk, prompt, index: prompt * (params.n ?? 1) + chunk.choice };
    }
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    // With a grammar at work such an error may be its own, and no caller's mistake.
    const isRefused = processLogits === undefined || sources.length < prompts.length;
    throw engineError(isRefused ? callerError(error, promptParam) : grammarError(error), promptParam, engine.info);
  } finally {
    for (const stop of unwatch) stop();
    // What began before another prompt was refused.
    await Promise.allSettled(sources.map(async (source) => source.return?.()));
  }
}

/** Choices of one prompt tell the same number: each prompt's counts once. */
function oncePerPrompt(onCount: (count: number) => void): (prompt: number, count: number) => void {
  const known = new Set<number>();
  return (prompt, count) => {
    if (known.has(prompt)) return;
    known.add(prompt);
    onCount(count);
  };
}
