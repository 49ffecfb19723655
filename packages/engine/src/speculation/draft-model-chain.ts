import { expectedTokens, type Draft } from "@readme-moe/core";
import { evidenceOf, typicalChance } from "./draft-model-plan.ts";

/** Conditions under which a draft ends. */
export interface ChainLimits {
  readonly mostTokens: number;
  /** Smallest chance that a token is reached and accepted. */
  readonly leastChance: number;
  /** Number of tokens of the model that verifies. */
  readonly vocabSize: number;
  /** Tokens after which nothing follows. */
  readonly eosTokenIds: readonly number[];
  /**
   * Chances of a draft's tokens, each given that those before it were accepted.
   * @default what the draft model's own probabilities say
   */
  readonly chances?: ((draft: Draft) => readonly number[]) | undefined;
}

/** A draft that grows by the best token of a draft model. */
export class DraftChain {
  readonly #limits: ChainLimits;
  readonly #tokenIds: number[] = [];
  readonly #classes: number[] = [];
  #chances: readonly number[] = [];
  #seenChances: readonly number[] = [];
  #isOver: boolean;

  constructor(limits: ChainLimits) {
    this.#limits = limits;
    this.#isOver = limits.mostTokens === 0;
  }

  get draft(): Draft {
    return { source: "model", tokenIds: this.#tokenIds, classes: this.#classes };
  }

  get length(): number {
    return this.#tokenIds.length;
  }

  /** Chance of each token, given that those before it were accepted; the last may be of a token that was not added. */
  get seenChances(): readonly number[] {
    return this.#seenChances;
  }

  /** Chance that all tokens are accepted. */
  get chance(): number {
    return this.#chances.reduce((product, chance) => product * chance, 1);
  }

  /** Expected number of accepted tokens. */
  get expectedTokens(): number {
    return expectedTokens(this.#chances);
  }

  /** The last token, if another one may follow it. */
  get growsFrom(): number | undefined {
    return this.#isOver ? undefined : this.#tokenIds.at(-1);
  }

  /** Adds a token with the draft model's probability of it, unless the draft ends before it. */
  add(tokenId: number, probability: number): void {
    const { mostTokens, leastChance, vocabSize, eosTokenIds, chances = typicalChances } = this.#limits;
    // Logits that are not finite give no probability.
    if (this.#isOver || tokenId >= vocabSize || !(probability >= 0)) return this.end();
    const longer: Draft = {
      source: "model",
      tokenIds: [...this.#tokenIds, tokenId],
      classes: [...this.#classes, evidenceOf(probability)],
    };
    const known = chances(longer);
    this.#seenChances = known;
    if (known.reduce((product, chance) => product * chance, 1) < leastChance) return this.end();
    this.#tokenIds.push(tokenId);
    this.#classes.push(evidenceOf(probability));
    this.#chances = known;
    if (this.#tokenIds.length === mostTokens || eosTokenIds.includes(tokenId)) this.end();
  }

  end(): void {
    this.#isOver = true;
  }
}

function typicalChances({ classes }: Draft): readonly number[] {
  return classes.map((evidence) => typicalChance(evidence));
}
