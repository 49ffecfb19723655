// From rows of logits to tokens of sequences, in this order:
//
// 1. If the sequence's caller processes logits, the row goes to the caller first and comes back later (`answer`). If
//    the caller says which tokens are allowed, it is asked before the step instead (`ask`).
// 2. `chooseToken` chooses a token from the row. It may need all logits if the best candidates do not decide.
// 3. `acceptToken` adds the token to its sequence, and decides which text may be shown and whether the sequence ends.
// 4. If the token is the next one of the sequence's draft, the same happens with the row after it.

import {
  type AllowedTokens,
  checkRow,
  type GenerateChunk,
  type GeneratedToken,
  type LogitsRow,
  ReadMeError,
  sampleAllowed,
  sampleProcessed,
  sampleToken,
  tokenLogprobs,
  uniformAt,
} from "@readme-moe/core";
import type { Tokenizer } from "@readme-moe/model";
import { allowanceAfter } from "./allowed-tokens.ts";
import type { Classifier } from "./classifier.ts";
import { type CompletionEnds, endingOf, type Sequence } from "./sequence.ts";
import type { ItemLogits } from "./batch.ts";
import type { EngineChunk } from "./engine-parts.ts";

/** A token that was chosen and is not part of its sequence yet. */
interface ChosenToken {
  readonly sequence: Sequence;
  readonly token: GeneratedToken;
}

/** A token that is part of its sequence, with the text that may be shown; or the end of one that is pooled. */
export interface AcceptedToken {
  readonly sequence: Sequence;
  readonly position: number;
  readonly chunk: EngineChunk;
}

/** Tokens that sequences got from their rows. */
interface Sampled {
  /** Tokens, in the order of each sequence's positions. */
  readonly accepted: readonly AcceptedToken[];
  /** Sequences whose next token needs all logits of their last known token, which the runner has not kept. */
  readonly undecided: readonly Sequence[];
}

export interface SamplerListeners {
  /** Receives a question to a sequence's caller: about allowed tokens, or with a row of logits. */
  readonly onQuestion: (sequence: Sequence, questionId: number, logits?: Float32Array<ArrayBuffer>) => void;
  readonly onFailed: (sequence: Sequence, error: unknown) => void;
}

interface OpenQuestion {
  readonly id: number;
  /** The model's own row, which log-probabilities refer to, if the caller processes logits. */
  readonly row?: LogitsRow | undefined;
  /** The caller's row. */
  processed?: Float32Array;
}

export class Sampler {
  readonly #tokenizer: Tokenizer;
  readonly #ends: CompletionEnds;
  readonly #listeners: SamplerListeners;
  readonly #classifier: Classifier | undefined;
  /** Questions by sequence. A preempted one keeps its question, since the answer depends on its tokens alone. */
  readonly #open = new Map<Sequence, OpenQuestion>();
  #numAsked = 0;

  /** @param classifier - makes results of the states of pooled sequences @default the states are the results */
  constructor(tokenizer: Tokenizer, ends: CompletionEnds, listeners: SamplerListeners, classifier?: Classifier) {
    this.#tokenizer = tokenizer;
    this.#ends = ends;
    this.#listeners = listeners;
    this.#classifier = classifier;
  }

  /**
   * Whether the sequence cannot run: its caller is asked, or has answered with a row and no token is chosen yet; or it
   * is not known which tokens are allowed.
   */
  isAwaiting(sequence: Sequence): boolean {
    return this.#open.has(sequence) || (sequence.isBound && sequence.allowed === undefined);
  }

  /** Finds the tokens that may follow a bound sequence's: what is left of its last answer, or else by a question. */
  ask(sequence: Sequence): void {
    if (!sequence.isBound) return;
    sequence.allowed = sequence.allowed && allowanceAfter(sequence.allowed, sequence.tokenIds);
    if (!sequence.allowed) this.#ask(sequence);
  }

  /** Takes an answer. Ignores it if the sequence has ended meanwhile. */
  answer(questionId: number, answer: Float32Array | AllowedTokens): void {
    for (const [sequence, question] of this.#open) {
      if (question.id !== questionId) continue;
      if (answer instanceof Float32Array) question.processed = answer;
      else {
        this.#open.delete(sequence);
        sequence.allowed = { ...answer, position: sequence.numTokens };
      }
    }
  }

  /**
   * Chooses the next token of each sequence, and further ones as long as its draft turns out right. Sequences whose
   * row goes to their caller get none.
   */
  sample(rows: readonly ItemLogits[]): Sampled {
    const accepted: AcceptedToken[] = [];
    const undecided: Sequence[] = [];
    for (const logits of rows) {
      const { sequence } = logits.item;
      this.#contain(sequence, () => {
        if (sequence.isPooled) accepted.push(pool(sequence, logits.rows, this.#classifier));
        else if (sequence.processesLogits) this.#send(sequence, logits.rows[0]);
        else if (!this.#verify(logits, accepted)) undecided.push(sequence);
      });
    }
    return { accepted, undecided };
  }

  /** Accepts tokens row by row until one differs from the draft. @returns whether all of these rows decided */
  #verify({ item: { sequence, draft }, rows, readAll }: ItemLogits, accepted: AcceptedToken[]): boolean {
    for (const [place, row] of rows.entries()) {
      // A row that fails fails again in the next step, when the tokens before it have been published.
      if (place > 0 && !Number.isFinite(row.logSumExp)) return true;
      const choose = (known: LogitsRow) => chooseToken(known, sequence, this.#tokenizer);
      let token = choose(row);
      if (!token) {
        const fullLogits = readAll?.(place);
        token = fullLogits && choose({ ...row, fullLogits });
      }
      if (!token) return false;
      accepted.push(this.#accept({ sequence, token }));
      if (sequence.finishReason || token.id !== draft?.tokenIds[place]) return true;
    }
    return true;
  }

  #accept(chosen: ChosenToken): AcceptedToken {
    const position = chosen.sequence.numTokens;
    return { sequence: chosen.sequence, position, chunk: acceptToken(chosen, this.#ends) };
  }

  /** Chooses the tokens of the rows that callers have answered. */
  sampleAnswers(): readonly AcceptedToken[] {
    const accepted: AcceptedToken[] = [];
    for (const [sequence, { row, processed }] of this.#open) {
      if (!row || !processed) continue;
      this.#open.delete(sequence);
      this.#contain(sequence, () => {
        const token = chooseToken(row, sequence, this.#tokenizer, processed);
        if (token) accepted.push(this.#accept({ sequence, token }));
      });
    }
    return accepted;
  }

  /** Discards the question of a sequence that has ended. */
  forget(sequence: Sequence): void {
    this.#open.delete(sequence);
  }

  #send(sequence: Sequence, row: LogitsRow | undefined): void {
    if (!row) return;
    checkRow(row);
    // The next step overwrites the row, and the caller may change its copy.
    this.#ask(sequence, { ...row, fullLogits: Float32Array.from(row.fullLogits ?? []) });
  }

  #ask(sequence: Sequence, row?: LogitsRow): void {
    const id = ++this.#numAsked;
    this.#open.set(sequence, { id, row });
    this.#listeners.onQuestion(sequence, id, row?.fullLogits?.slice());
  }

  #contain(sequence: Sequence, action: () => void): void {
    try {
      action();
    } catch (error) {
      this.#listeners.onFailed(sequence, error);
    }
  }
}

/**
 * Chooses a sequence's next token. The draw depends on the seed, the choice and the position alone, so neither other
 * sequences nor preemption change it.
 *
 * @param processed - the row's logits after the caller's `processLogits`, if rows go to the caller
 * @returns `undefined` if the row's candidates do not decide and all logits are needed
 * @throws {ReadMeError} `ERR_RUNTIME` if the logits are not finite
 * @throws {RangeError} if the processed logits are not numbers, or if they or the mask leave no token
 */
function chooseToken(
  row: LogitsRow,
  sequence: Sequence,
  tokenizer: Tokenizer,
  processed?: Float32Array,
): GeneratedToken | undefined {
  const { params, seed, choice, counts, completionTokens, allowed } = sequence;
  const mask = allowed?.masks[sequence.numTokens - allowed.position];
  const u = uniformAt(seed, choice, completionTokens);
  const sampled = processed
    ? sampleProcessed({ ...row, processed }, params, counts, u)
    : mask
      ? sampleAllowed({ ...row, mask }, params, counts, u)
      : sampleToken(row, params, counts, u);
  if (!sampled || params.logprobs === undefined) return sampled && { id: sampled.id };
  const { logprob, top } = tokenLogprobs(row, sampled, params.logprobs);
  return {
    id: sampled.id,
    logprob,
    topLogprobs: top.map((one) => ({ ...one, text: tokenizer.decode([one.id]) })),
  };
}

/** Ends a sequence with the outputs of its prompt. @throws {ReadMeError} `ERR_RUNTIME` if they are not finite */
function pool(sequence: Sequence, rows: readonly LogitsRow[], classifier: Classifier | undefined): AcceptedToken {
  const size = rows[0]?.fullLogits?.length;
  if (size === undefined) throw new Error(`The sequence ${sequence.id} got no outputs`);
  // The next step overwrites the rows.
  const all = new Float32Array(size * rows.length);
  for (const [index, { fullLogits = [] }] of rows.entries()) all.set(fullLogits, index * size);
  const hasResult = classifier && (!sequence.givesStates || classifier.isOfTokens);
  const pooled = hasResult ? classifier.logitsOf(all) : all;
  if (!pooled.every(Number.isFinite)) throw new ReadMeError("ERR_RUNTIME", "The model's outputs are not finite");
  sequence.finishReason = "stop";
  const chunk = { choice: sequence.choice, text: "", tokens: [], finishReason: "stop" as const, pooled };
  return { sequence, position: sequence.numTokens, chunk };
}

/**
 * Adds a chosen token to its sequence.
 * @returns the text that may be shown now, and why the sequence ends if it does
 */
export function acceptToken({ sequence, token }: ChosenToken, ends: CompletionEnds): GenerateChunk {
  sequence.tokenIds.push(token.id);
  sequence.counts.add(token.id);
  const piece = sequence.text.push(token.id, endingOf(token.id, sequence, ends));
  sequence.finishReason = piece.finishReason;
  return { choice: sequence.choice, tokens: [token], ...piece };
}
