// From rows of logits to tokens. Rows of sequences whose callers process logits go to these first.

import { checkRow, type GeneratedToken, type LogitsRow } from "@readme-moe/core";
import type { Tokenizer } from "@readme-moe/model";
import type { BatchItem } from "./batch.ts";
import { chooseToken } from "./choose-token.ts";
import type { ItemLogits } from "./forward-batch.ts";
import type { Sequence } from "./sequence.ts";

export interface Chosen {
  readonly sequence: Sequence;
  readonly token: GeneratedToken;
}

export interface RowListeners {
  /** A row is to go to its sequence's caller; what comes back names `rowId`. */
  readonly onAsked: (sequence: Sequence, rowId: number, logits: Float32Array<ArrayBuffer>) => void;
  readonly onFailed: (sequence: Sequence, error: unknown) => void;
}

/** A row that is with a sequence's caller. */
interface RowAway {
  readonly rowId: number;
  /** As the model gave it: log-probabilities are of it. */
  readonly row: LogitsRow;
  /** What came back. */
  processed: Float32Array | undefined;
}

export class RowSampler {
  readonly #tokenizer: Tokenizer;
  readonly #listeners: RowListeners;
  readonly #away = new Map<Sequence, RowAway>();
  #numAsked = 0;

  constructor(tokenizer: Tokenizer, listeners: RowListeners) {
    this.#tokenizer = tokenizer;
    this.#listeners = listeners;
  }

  /** Whether a sequence's row is with its caller: until it is back and its token chosen, the sequence cannot run. */
  isAway(sequence: Sequence): boolean {
    return this.#away.has(sequence);
  }

  /** @returns tokens, and whose candidates do not decide; rows that go to a caller are in neither */
  sample(rows: readonly ItemLogits[]): {
    readonly chosen: readonly Chosen[];
    readonly undecided: readonly BatchItem[];
  } {
    const chosen: Chosen[] = [];
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

  /** Takes what a caller made of a row. It may come too late: for a sequence that has left. */
  answer(rowId: number, processed: Float32Array): void {
    for (const row of this.#away.values()) if (row.rowId === rowId) row.processed = processed;
  }

  /** The tokens of the rows that came back. */
  sampleAnswers(): readonly Chosen[] {
    const chosen: Chosen[] = [];
    for (const [sequence, { row, processed }] of this.#away) {
      if (!processed) continue;
      this.#away.delete(sequence);
      this.#contain(sequence, () => {
        const token = chooseToken(row, sequence, this.#tokenizer, processed);
        if (token) chosen.push({ sequence, token });
      });
    }
    return chosen;
  }

  /** The sequence has left. */
  forget(sequence: Sequence): void {
    this.#away.delete(sequence);
  }

  #ask(sequence: Sequence, row: LogitsRow): void {
    checkRow(row);
    const rowId = ++this.#numAsked;
    // The next step writes over the row, and the caller may change it.
    const fullLogits = (row.fullLogits as Float32Array).slice();
    this.#away.set(sequence, { rowId, row: { ...row, fullLogits }, processed: undefined });
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
