// From rows of logits to tokens of sequences, in this order:
//
// 1. If the sequence's caller processes logits, the row goes to the caller first and comes back later (`answer`).
// 2. `chooseToken` chooses a token from the row. It may need all logits if the best candidates do not decide.
// 3. `acceptToken` adds the token to its sequence, and decides which text may be shown and whether the sequence ends.

import {
  checkRow,
  sampleProcessed,
  sampleToken,
  tokenLogprobs,
  uniformAt,
  type FinishReason,
  type GenerateChunk,
  type GeneratedToken,
  type LogitsRow,
} from "@readme-moe/core";
import type { Tokenizer } from "@readme-moe/model";
import type { BatchItem, ItemLogits } from "./batch.ts";
import type { Sequence } from "./sequence.ts";

/** A token that was chosen and is not part of its sequence yet. */
export interface ChosenToken {
  readonly sequence: Sequence;
  readonly token: GeneratedToken;
}

export interface SamplerListeners {
  /** Receives a row for the sequence's caller. The processed row comes back under `rowId`. */
  readonly onAsked: (sequence: Sequence, rowId: number, logits: Float32Array<ArrayBuffer>) => void;
  readonly onFailed: (sequence: Sequence, error: unknown) => void;
}

/** A row that is with its sequence's caller. */
interface AwaitedRow {
  readonly rowId: number;
  /** The model's own row, which log-probabilities refer to. */
  readonly row: LogitsRow;
  /** The caller's answer. */
  processed: Float32Array | undefined;
}

export class Sampler {
  readonly #tokenizer: Tokenizer;
  readonly #listeners: SamplerListeners;
  readonly #awaited = new Map<Sequence, AwaitedRow>();
  #numAsked = 0;

  constructor(tokenizer: Tokenizer, listeners: SamplerListeners) {
    this.#tokenizer = tokenizer;
    this.#listeners = listeners;
  }

  /** Whether the sequence cannot run because its caller has its row, or has answered and no token is chosen yet. */
  isAwaiting(sequence: Sequence): boolean {
    return this.#awaited.has(sequence);
  }

  /**
   * Chooses tokens, and lists the items whose candidates do not decide. Rows that go to a caller are in neither list.
   */
  sample(rows: readonly ItemLogits[]): {
    readonly chosen: readonly ChosenToken[];
    readonly undecided: readonly BatchItem[];
  } {
    const chosen: ChosenToken[] = [];
    const undecided: BatchItem[] = [];
    for (const { item, row } of rows) {
      const { sequence } = item;
      this.#contain(sequence, () => {
        if (sequence.processesLogits) return this.#ask(sequence, row);
        const token = chooseToken(row, sequence, this.#tokenizer);
        if (token) chosen.push({ sequence, token });
        else undecided.push(item);
      });
    }
    return { chosen, undecided };
  }

  /** Takes a row that a caller has processed. Ignores it if the sequence has ended meanwhile. */
  answer(rowId: number, processed: Float32Array): void {
    for (const row of this.#awaited.values()) if (row.rowId === rowId) row.processed = processed;
  }

  /** Chooses the tokens of the rows that callers have answered. */
  sampleAnswers(): readonly ChosenToken[] {
    const chosen: ChosenToken[] = [];
    for (const [sequence, { row, processed }] of this.#awaited) {
      if (!processed) continue;
      this.#awaited.delete(sequence);
      this.#contain(sequence, () => {
        const token = chooseToken(row, sequence, this.#tokenizer, processed);
        if (token) chosen.push({ sequence, token });
      });
    }
    return chosen;
  }

  /** Discards the row of a sequence that has ended. */
  forget(sequence: Sequence): void {
    this.#awaited.delete(sequence);
  }

  #ask(sequence: Sequence, row: LogitsRow): void {
    checkRow(row);
    const rowId = ++this.#numAsked;
    // The next step overwrites the row, and the caller may change its copy.
    const fullLogits = Float32Array.from(row.fullLogits ?? []);
    this.#awaited.set(sequence, { rowId, row: { ...row, fullLogits }, processed: undefined });
    this.#listeners.onAsked(sequence, rowId, fullLogits.slice());
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
 * @param processed - the row's logits after the caller's `processLogits`, if it has one
 * @returns `undefined` if the row's candidates do not decide and all logits are needed
 * @throws {ReadMeError} `ERR_RUNTIME` if the logits are not finite
 * @throws {RangeError} if the processed logits are not numbers, or leave no token
 */
function chooseToken(
  row: LogitsRow,
  sequence: Sequence,
  tokenizer: Tokenizer,
  processed?: Float32Array,
): GeneratedToken | undefined {
  const { params, seed, choice, counts, completionTokens } = sequence;
  const u = uniformAt(seed, choice, completionTokens);
  const sampled = processed
    ? sampleProcessed({ ...row, processed }, params, counts, u)
    : sampleToken(row, params, counts, u);
  if (!sampled || params.logprobs === undefined) return sampled && { id: sampled.id };
  const { logprob, top } = tokenLogprobs(row, sampled, params.logprobs);
  return {
    id: sampled.id,
    logprob,
    topLogprobs: top.map((one) => ({ ...one, text: tokenizer.decode([one.id]) })),
  };
}

/** Model facts that end a sequence. */
export interface SequenceEnds {
  readonly eosTokenIds: readonly number[];
  /** Largest number of tokens of one sequence, prompt included. */
  readonly contextTokens: number;
}

/**
 * Adds a chosen token to its sequence.
 * @returns the text that may be shown now, and why the sequence ends if it does
 */
export function acceptToken({ sequence, token }: ChosenToken, ends: SequenceEnds): GenerateChunk {
  const { params, decoder, stops, choice } = sequence;
  sequence.tokenIds.push(token.id);
  sequence.counts.add(token.id);
  const isEnd = (!params.ignoreEos && ends.eosTokenIds.includes(token.id)) || params.stopTokenIds.has(token.id);
  // An end token is not part of the text, even if it has a spelling.
  const { text, stopped } = stops.push(isEnd ? decoder.flush() : decoder.push(token.id));
  const tokens = [token];
  if (stopped) {
    sequence.finishReason = "stop";
    return { choice, text, tokens, finishReason: "stop", stop: stopped.stop };
  }
  sequence.finishReason = isEnd ? "stop" : finishedByLength(sequence, ends);
  if (sequence.finishReason === undefined) return { choice, text, tokens };
  // Text that was held back as the possible beginning of a stop string is shown now, up to a stop string in it.
  const held = stops.push(isEnd ? "" : decoder.flush());
  const last = held.stopped ? undefined : stops.flush();
  const stop = (held.stopped ?? last?.stopped)?.stop;
  const rest = text + held.text + (last?.text ?? "");
  if (stop !== undefined) sequence.finishReason = "stop";
  const finished = { choice, text: rest, tokens, finishReason: sequence.finishReason };
  return stop === undefined ? finished : { ...finished, stop };
}

function finishedByLength(
  { params, completionTokens, numTokens }: Sequence,
  { contextTokens }: SequenceEnds,
): FinishReason | undefined {
  return completionTokens >= params.maxTokens || numTokens >= contextTokens ? "length" : undefined;
}
