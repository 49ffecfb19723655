// One request of a client: several prompts with several choices each, as one stream of pieces.

import type { GenerateChunk, ProcessLogits } from "@readme-moe/core";
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
 * Pieces come once the engine has taken every prompt, so that an answer of which it refuses a prompt does not begin.
 *
 * @throws {ApiError} when the engine refuses or fails
 * @throws the reason of `signal`
 */
export async function* generateAll(
  plan: GenerationPlan,
  signal: AbortSignal,
  { onQueuedMs, onPromptTokens, onRouted }: GenerationListeners,
): AsyncGenerator<Piece, void, undefined> {
  const { engine, prompts, promptParam, params, expert, priority, client, processLogits } = plan;
  const ids = prompts.map((_, index) => (prompts.length === 1 ? plan.id : `${plan.id}.${index}`));
  const taken = new Set<number>();
  const unwatch = ids.map((id, index) =>
    watchRequest(engine, id, {
      onQueuedMs,
      onRouted,
      // Choices of one prompt tell the same number: each prompt's counts once.
      onPromptTokens: (count) => {
        if (!taken.has(index)) onPromptTokens(count);
        taken.add(index);
      },
    }),
  );
  const held: Piece[] = [];
  const sources: AsyncIterator<GenerateChunk>[] = [];
  let failed: number | undefined;
  let wasAsked = false;
  const processRow: ProcessLogits | undefined =
    processLogits &&
    ((logits, context) => {
      wasAsked = true;
      return processLogits(logits, context);
    });
  try {
    for (const [index, prompt] of prompts.entries()) {
      const id = ids[index] as string;
      sources.push(
        engine.generate({ prompt, params, processLogits: processRow, expert, priority, client, id, signal }),
      );
    }
    for await (const [prompt, chunk] of merge(sources, (source) => (failed = source))) {
      taken.add(prompt);
      held.push({ ...chunk, prompt, index: prompt * (params.n ?? 1) + chunk.choice });
      if (taken.size === prompts.length) yield* held.splice(0);
    }
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    // Once a grammar is at work such an error may be its own, and no caller's mistake.
    const isRefused = !wasAsked || sources.length < prompts.length;
    const where = prompts.length === 1 ? promptParam : `${promptParam}[${failed ?? sources.length}]`;
    throw engineError(isRefused ? callerError(error, where) : grammarError(error), where, engine.info);
  } finally {
    for (const stop of unwatch) stop();
    // What began before another prompt was refused.
    await Promise.allSettled(sources.map(async (source) => source.return?.()));
  }
}
