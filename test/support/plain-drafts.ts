// The most likely continuations of a model, with a new memory for every token: slow and plain.

import type { StepRunner } from "@readme-moe/engine";
import type { KvSlot } from "@readme-moe/kernel";
import { kvFor } from "./greedy.ts";

/** A token with its probability. */
export interface PlainToken {
  readonly tokenId: number;
  readonly probability: number;
}

/** Remembers the token after each text, since texts come back. */
export class PlainDrafts {
  readonly #runner: StepRunner;
  readonly #known = new Map<string, PlainToken>();

  constructor(runner: StepRunner) {
    this.#runner = runner;
  }

  /** Continues tokens one by one. Each time the whole text runs, and all logits are compared. */
  async continued(tokenIds: readonly number[], numTokens: number): Promise<readonly PlainToken[]> {
    const tokens: PlainToken[] = [];
    while (tokens.length < numTokens) {
      tokens.push(await this.#next([...tokenIds, ...tokens.map(({ tokenId }) => tokenId)]));
    }
    return tokens;
  }

  async #next(tokenIds: readonly number[]): Promise<PlainToken> {
    const key = tokenIds.join(" ");
    const known = this.#known.get(key) ?? (await this.#computed(tokenIds));
    this.#known.set(key, known);
    return known;
  }

  async #computed(tokenIds: readonly number[]): Promise<PlainToken> {
    const kv = kvFor(this.#runner, tokenIds.length);
    const slot = kv.admit(tokenIds.length) as KvSlot;
    const experts = new Uint16Array(tokenIds.length);
    const logitsOf = [tokenIds.length - 1];
    const [result] = await this.#runner.forward(kv, [{ slot, tokenIds, experts, logitsOf, wantsFullLogits: true }]);
    const logits = Array.from(result?.fullLogits ?? []);
    kv.dispose();
    const best = Math.max(...logits);
    const sum = logits.reduce((total, logit) => total + Math.exp(logit - best), 0);
    return { tokenId: logits.indexOf(best), probability: 1 / sum };
  }
}
