// Runs of a draft model, and what they cost.

import { type CostModel, predictStepMs, refineCostModel } from "@readme-moe/core";
import type { KvMemory } from "@readme-moe/kernel";
import type { StepRunner } from "../step-runner.ts";
import type { CachedSequence } from "./draft-model-memory.ts";
import { FEW_TOKENS } from "./draft-model-plan.ts";

/** Tokens of a sequence that run after those in its memory. */
export interface DraftModelRow {
  readonly cached: CachedSequence;
  readonly tokenIds: readonly number[];
  /** Whether the token that follows is wanted. */
  readonly isWanted: boolean;
}

/** The token that a draft model gives the highest probability, the lowest id among equals. */
export interface BestToken {
  readonly tokenId: number;
  readonly probability: number;
}

/** Runs a draft model and measures it. */
export class DraftModelRuns {
  readonly #runner: StepRunner;
  readonly #kv: KvMemory;
  readonly #now: () => number;
  #cost: CostModel;
  /** Mean number of earlier tokens of a row of the last measured run. */
  #pastTokens = 0;
  #spentMs = 0;

  constructor(
    runner: StepRunner,
    kv: KvMemory,
    { cost, now }: { readonly cost: CostModel; readonly now: () => number },
  ) {
    this.#runner = runner;
    this.#kv = kv;
    this.#cost = cost;
    this.#now = now;
  }

  /** Time of all runs so far. */
  get spentMs(): number {
    return this.#spentMs;
  }

  /** Predicts the time of a run that gives each of `numRows` sequences one token. */
  msPerRun(numRows: number): number {
    const cachedTokens = this.#pastTokens * numRows;
    return predictStepMs(this.#cost, { tokens: numRows, distinctExperts: 1, cachedTokens, missingBytes: 0 });
  }

  /** Runs tokens and appends them to their sequences. @returns the best next tokens, where they are wanted */
  async run(rows: readonly DraftModelRow[]): Promise<readonly (BestToken | undefined)[]> {
    if (rows.length === 0) return [];
    const startMs = this.#now();
    const results = await this.#runner.forward(
      this.#kv,
      rows.map(({ cached: { slot }, tokenIds, isWanted }) => ({
        slot,
        tokenIds,
        experts: new Uint16Array(tokenIds.length),
        logitsOf: isWanted ? [tokenIds.length - 1] : [],
      })),
    );
    this.#measure(rows, this.#now() - startMs);
    for (const { cached, tokenIds } of rows) for (const tokenId of tokenIds) cached.tokenIds.push(tokenId);
    return results.map(({ candidateIds, candidateLogits, logSumExp }) => {
      const [tokenId] = candidateIds;
      if (tokenId === undefined) return undefined;
      return { tokenId, probability: Math.exp((candidateLogits[0] ?? NaN) - (logSumExp[0] ?? NaN)) };
    });
  }

  #measure(rows: readonly DraftModelRow[], durationMs: number): void {
    this.#spentMs += durationMs;
    // Tokens of a prompt take less time each than tokens of many sequences.
    if (rows.some(({ tokenIds }) => tokenIds.length > FEW_TOKENS)) return;
    const tokens = rows.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);
    const cachedTokens = rows.reduce((sum, { cached }) => sum + cached.tokenIds.length, 0);
    this.#pastTokens = cachedTokens / rows.length;
    const work = { tokens, distinctExperts: 1, cachedTokens, missingBytes: 0 };
    this.#cost = refineCostModel(this.#cost, { work, durationMs });
  }
}
