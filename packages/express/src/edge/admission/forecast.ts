// When places will be given back, and when the turn of one who comes now would be: what is in is played through in
// large strides, with the times of steps that its routes lead to. Plain data; nothing here is random or reads a clock.

import { predictStepMs, type CostModel } from "@readme-moe/core";

/** What is left to do for one request. */
export interface QueuedWork {
  /** Sequences that run side by side. */
  readonly choices: number;
  /** That have not run yet; 0 where the answer has begun. */
  readonly promptTokens: number;
  /** That are there already: of the prompt, and of each choice. */
  readonly contextTokens: number;
  /** Of each choice, that are still expected; at least 1. */
  readonly tokensLeft: number;
  /** Shares of its tokens by expert, `[numExperts]`, together 1; empty where they are not known. */
  readonly shares: readonly number[];
}

export interface Forecast {
  /** When each request will have ended, from now, ascending: the n-th place is free then. */
  readonly returnsMs: readonly number[];
  /** When one more could begin to run, from now. */
  readonly turnMs: number;
}

interface Running {
  readonly work: QueuedWork;
  left: number;
  context: number;
}

/**
 * @param queue - those that run first, then the others in the order of their turns
 * @param maxNumSeqs - sequences that run at once
 */
export function forecastQueue(queue: readonly QueuedWork[], cost: CostModel, maxNumSeqs: number): Forecast {
  const waiting = queue.map((work) => ({ ...work, shares: work.shares.length > 0 ? work.shares : meanShares(queue) }));
  const running: Running[] = [];
  const returnsMs: number[] = [];
  let [nowMs, next] = [0, 0];
  let turnMs: number | undefined;
  const hasRoom = (choices: number): boolean =>
    running.length === 0 || running.reduce((sum, { work }) => sum + work.choices, choices) <= maxNumSeqs;
  for (;;) {
    for (let work = waiting[next]; work && hasRoom(work.choices); work = waiting[++next]) {
      nowMs += prefillMs(work, cost);
      running.push({ work, left: work.tokensLeft, context: work.contextTokens + work.promptTokens });
    }
    if (next === waiting.length && hasRoom(1)) turnMs ??= nowMs;
    if (running.length === 0) return { returnsMs, turnMs: turnMs ?? nowMs };
    const steps = Math.min(...running.map(({ left }) => left));
    nowMs += steps * decodeMs(running, steps, cost);
    for (const one of running.splice(0)) {
      one.left -= steps;
      one.context += steps;
      if (one.left > 0) running.push(one);
      else returnsMs.push(nowMs);
    }
  }
}

/** Tokens that a choice will still have, from those of answers before. @param bound - the most that it may have */
export function expectedTokensLeft(done: number, bound: number, meanTokens: number | undefined): number {
  // One that is longer than most is not about to end for that.
  const expected = meanTokens === undefined ? bound : Math.max(meanTokens - done, meanTokens / 2);
  return Math.max(1, Math.min(bound - done, Math.round(expected)));
}

/** @param tokens - of each expert */
export function sharesOf(tokens: readonly number[]): readonly number[] {
  const sum = tokens.reduce((total, count) => total + count, 0);
  return sum === 0 ? [] : tokens.map((count) => count / sum);
}

/** What a prompt adds to the steps that it runs in. */
function prefillMs({ promptTokens, shares }: QueuedWork, cost: CostModel): number {
  if (promptTokens === 0) return 0;
  const distinctExperts = distinct([{ shares, tokens: promptTokens }]);
  const work = { tokens: promptTokens, distinctExperts, cachedTokens: 0, missingBytes: 0 };
  return predictStepMs({ ...cost, fixedMs: 0 }, work);
}

/** One of the next steps, in the middle of them. */
function decodeMs(running: readonly Running[], steps: number, cost: CostModel): number {
  const sum = (of: (one: Running) => number): number => running.reduce((total, one) => total + of(one), 0);
  return predictStepMs(cost, {
    tokens: sum(({ work }) => work.choices),
    distinctExperts: distinct(running.map(({ work }) => ({ shares: work.shares, tokens: work.choices }))),
    cachedTokens: sum(({ work, context }) => work.choices * (context + steps / 2)),
    missingBytes: 0,
  });
}

/** How many experts are expected to have a token, when each is drawn by the shares of its request. */
function distinct(draws: readonly { readonly shares: readonly number[]; readonly tokens: number }[]): number {
  const numExperts = Math.max(1, ...draws.map(({ shares }) => shares.length));
  let sum = 0;
  for (let expert = 0; expert < numExperts; expert++) {
    const none = draws.reduce((product, { shares, tokens }) => product * (1 - (shares[expert] ?? 0)) ** tokens, 1);
    sum += 1 - none;
  }
  // Where nothing is known of anybody, tokens go somewhere all the same.
  return Math.max(1, sum);
}

function meanShares(queue: readonly QueuedWork[]): readonly number[] {
  const known = queue.filter(({ shares }) => shares.length > 0);
  const numExperts = Math.max(0, ...known.map(({ shares }) => shares.length));
  return Array.from({ length: numExperts }, (_, expert) => {
    return known.reduce((sum, { shares }) => sum + (shares[expert] ?? 0), 0) / known.length;
  });
}
