import type { LogitsRow } from "./logits-row.ts";

/** The first tokens in falling order of their logits; the lower id first among equals. */
export interface RankedLogits {
  readonly ids: Int32Array;
  readonly logits: Float32Array;
  /** Whether every other token's logit is `-Infinity`. */
  readonly isComplete: boolean;
}

/** A row's candidates without the masked ones. */
export function rankedCandidates(row: LogitsRow, masked: ReadonlySet<number>, vocabSize: number): RankedLogits {
  const { candidateIds, candidateLogits } = row;
  const isComplete = candidateIds.length >= vocabSize || candidateLogits.at(-1) === -Infinity;
  if (masked.size === 0) return { ids: candidateIds, logits: candidateLogits, isComplete };
  const isKept = (_: number, index: number): boolean => !masked.has(candidateIds[index] as number);
  return { ids: candidateIds.filter(isKept), logits: candidateLogits.filter(isKept), isComplete };
}

/**
 * The `count` best of all tokens, `-Infinity` left out.
 *
 * One pass with a heap of the best so far, the worst of them on top: nearly every logit costs one comparison, and
 * nothing is sorted but the result.
 */
export function bestLogits(logits: Float32Array, count: number): RankedLogits {
  const heap = new WorstFirstHeap(Math.min(count, logits.length));
  let entry = -Infinity;
  for (let id = 0; id < logits.length; id++) {
    const logit = logits[id] as number;
    // An equal of the worst has the higher id, and so comes after it.
    if (logit > entry) entry = heap.add(id, logit);
  }
  const isComplete = !heap.isFull || count >= logits.length;
  return { ...heap.toRanked(), isComplete };
}

/** The id of the largest logit, the lowest among equals; `undefined` when all are `-Infinity`. */
export function bestId(logits: Float32Array): number | undefined {
  let best: number | undefined;
  let most = -Infinity;
  for (let id = 0; id < logits.length; id++) {
    const logit = logits[id] as number;
    if (logit > most) {
      most = logit;
      best = id;
    }
  }
  return best;
}

/** A binary heap of bounded size which drops its worst entry for a better one. */
class WorstFirstHeap {
  readonly #ids: Int32Array;
  readonly #logits: Float32Array;
  #size = 0;

  constructor(capacity: number) {
    this.#ids = new Int32Array(capacity);
    this.#logits = new Float32Array(capacity);
  }

  get isFull(): boolean {
    return this.#size === this.#ids.length;
  }

  /** @returns what a later entry's logit must exceed to be among the best */
  add(id: number, logit: number): number {
    if (this.isFull) this.#sink(0, id, logit, this.#size);
    else this.#rise(this.#size++, id, logit);
    return this.isFull ? (this.#logits[0] as number) : -Infinity;
  }

  /** Empties the heap into its own arrays, worst to the end. */
  toRanked(): Pick<RankedLogits, "ids" | "logits"> {
    const size = this.#size;
    for (let end = size - 1; end > 0; end--) {
      const [id, logit] = [this.#ids[end] as number, this.#logits[end] as number];
      this.#put(end, this.#ids[0] as number, this.#logits[0] as number);
      this.#sink(0, id, logit, end);
    }
    this.#size = 0;
    return { ids: this.#ids.subarray(0, size), logits: this.#logits.subarray(0, size) };
  }

  #rise(from: number, id: number, logit: number): void {
    let hole = from;
    while (hole > 0) {
      const parent = (hole - 1) >> 1;
      if (!this.#isBetter(parent, id, logit)) break;
      this.#put(hole, this.#ids[parent] as number, this.#logits[parent] as number);
      hole = parent;
    }
    this.#put(hole, id, logit);
  }

  #sink(from: number, id: number, logit: number, size: number): void {
    let hole = from;
    for (let child = 2 * hole + 1; child < size; child = 2 * hole + 1) {
      const right = child + 1;
      if (right < size && this.#isBetter(child, this.#ids[right] as number, this.#logits[right] as number))
        child = right;
      if (this.#isBetter(child, id, logit)) break;
      this.#put(hole, this.#ids[child] as number, this.#logits[child] as number);
      hole = child;
    }
    this.#put(hole, id, logit);
  }

  #put(at: number, id: number, logit: number): void {
    this.#ids[at] = id;
    this.#logits[at] = logit;
  }

  #isBetter(at: number, id: number, logit: number): boolean {
    const other = this.#logits[at] as number;
    return other > logit || (other === logit && (this.#ids[at] as number) < id);
  }
}
