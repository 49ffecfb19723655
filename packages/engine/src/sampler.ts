// From rows of logits to tokens of sequences, in this order:
//
// 1. If the sequence's caller processes logits, the row goes to the caller first and comes back later (`answer`). If the
//    caller says which tokens are allowed, it is asked before the step instead (`ask`, `allow`).
// 2. `chooseToken` chooses a token from the row. It may need all logits if the best candidates do not decide.
// 3. `acceptToken` adds the token to its sequence, and decides which text may be shown and whether the sequence ends.

import {
  checkRow,
  sampleAllowed,
  sampleProcessed,
  sampleToken,
  tokenLogprobs,
  uniformAt,
  type AllowedTokens,
  type FinishReason,
  type GenerateChunk,
  type GeneratedToken,
  type LogitsRow,
} from "@readme-moe/core";
import type { Tokenizer } from "@readme-moe/model";
import { AllowedQuestions } from "./allowed-questions.ts";
import type { BatchItem, ItemLogits } from "./batch.ts";
import type { EngineOutput } from "./engine-parts.ts";
import type { Sequence } from "./sequence.ts";

/** A token that was chosen and is not part of its sequence yet. */
export interface ChosenToken {
  readonly sequence: Sequence;
  readonly token: GeneratedToken;
}

/** Receives rows and questions for the callers of sequences. */
type CallerOutput = Pick<EngineOutput, "logits" | "ask">;

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
  readonly #output: CallerOutput;
  readonly #onFailed: (sequence: Sequence, error: unknown) => void;
  readonly #awaited = new Map<Sequence, AwaitedRow>();
  readonly #questions: AllowedQuestions;
  #numAsked = 0;

  constructor(
    tokenizer: Tokenizer,
    output: CallerOutput,
    onFailed: (sequence: Sequence, error: unknown) => void,
  ) {
    this.#tokenizer = tokenizer;
    this.#output = output;
    this.#onFailed = onFailed;
    this.#questions = new AllowedQuestions((sequence, id) => output.ask(sequence, id, new Int32Array()));
  }

  /**
   * Whether the sequence cannot run: its caller has its row, or has answered and no token is chosen yet; or it is not
   * known which tokens are allowed.
   */
  isAwaiting(sequence: Sequence): boolean {
    return this.#awaited.has(sequence) || this.#questions.isAwaiting(sequence);
  }

  /** Finds which tokens may follow the sequence's, by a question to its caller if there is no other way. */
  ask(sequence: Sequence): void {
    this.#questions.ask(sequence);
  }

  /** Takes the answer to a question. */
  allow(questionId: number, allowed: AllowedTokens): void {
    this.#questions.answer(questionId, allowed);
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
        if (sequence.processesLogits) return this.#send(sequence, row);
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

  /** Discards the row and the question of a sequence that has ended. */
  forget(sequence: Sequence): void {
    this.#questions.forget(sequence);
    this.#awaited.delete(sequence);
  }

  #send(sequence: Sequence, row: LogitsRow): void {
    checkRow(row);
    const rowId = ++this.#numAsked;
    // The next step overwrites the row, and the caller may change its copy.
    const fullLogits = Float32Array.from(row.fullLogits ?? []);
    this.#awaited.set(sequence, { rowId, row: { ...row, fullLogits }, processed: undefined });
    this.#output.logits(sequence, rowId, fullLogits.slice());
  }

  #contain(sequence: Sequence, action: () => void): void {
    try {
      action();
    } catch (error) {
      this.#onFailed(sequence, error);
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
  const mask = allowed?.masks[0];
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
