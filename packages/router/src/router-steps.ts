import { encodeStep, GrowingAngles, type Kernel, type KernelPages, type PageSlot } from "@readme-moe/kernel";
import type { RouterConfig } from "@readme-moe/model";

/** Rows of one call: those of more tokens are split, which changes no bit. */
export const MAX_ROWS = 512;

/** Tokens that follow those of a slot, which has room for them. */
export interface SlotTokens {
  readonly slot: PageSlot;
  readonly tokenIds: ArrayLike<number>;
  /** Where logits go, `[tokens, numExperts]`. @default they are not computed */
  readonly logits?: Float32Array | undefined;
}

/** Pages, and who has counted how many positions of which slot. */
export interface SlotPages {
  readonly pages: KernelPages;
  advance(slot: PageSlot, numTokens: number): void;
}

/** Tokens `[from, to)` of one of several sequences. */
interface Piece {
  readonly sequence: SlotTokens;
  readonly from: number;
  readonly to: number;
}

/** Brings tokens through a router's kernel. */
export class RouterSteps {
  readonly #config: RouterConfig;
  readonly #kernel: Kernel;
  readonly #candidateIds = new Int32Array(MAX_ROWS);
  readonly #logits = new Float32Array(2 * MAX_ROWS);
  readonly #sums = new Float64Array(2 * MAX_ROWS);
  readonly #fullLogits: Float32Array;
  readonly #angles: GrowingAngles;

  constructor(config: RouterConfig, kernel: Kernel) {
    this.#config = config;
    this.#kernel = kernel;
    const { ropeTheta: theta, innerSize, numHeads, contextTokens } = config;
    const rope = { type: "default", theta } as const;
    this.#angles = new GrowingAngles(kernel, { rope, headSize: innerSize / numHeads, contextTokens });
    this.#fullLogits = new Float32Array(MAX_ROWS * config.numExperts);
  }

  /** Appends all tokens, several sequences in a call; blocks its thread. */
  append(memory: SlotPages, sequences: readonly SlotTokens[]): void {
    for (const { slot, tokenIds } of sequences) this.#angles.reach(slot.numTokens + tokenIds.length);
    for (const pieces of callsOf(sequences)) this.#run(memory, pieces);
  }

  #run(memory: SlotPages, pieces: readonly Piece[]): void {
    const { vocabSize, numExperts, contextTokens } = this.#config;
    let numFullRows = 0;
    const rows = pieces.map(({ sequence: { slot, tokenIds, logits }, from, to }) => {
      const logitsOf = Array.from({ length: logits ? to - from : 0 }, (_, row) => row);
      return {
        tokenIds: Array.prototype.slice.call(tokenIds, from, to) as number[],
        position: slot.numTokens,
        pages: slot.pages,
        logitsOf,
        fullPlaces: logitsOf.map(() => numFullRows++),
      };
    });
    const sizes = { vocabSize, numLogits: numExperts, maxRows: MAX_ROWS, maxPositions: contextTokens };
    const request = encodeStep(rows, 1, { ...sizes, numPages: memory.pages.numPages, numFullRows });
    this.#kernel.step(memory.pages, request, {
      candidateIds: this.#candidateIds,
      logits: this.#logits,
      sums: this.#sums,
      fullLogits: this.#fullLogits.subarray(0, numFullRows * numExperts),
    });
    let done = 0;
    for (const { sequence, from, to } of pieces) {
      memory.advance(sequence.slot, to - from);
      if (!sequence.logits) continue;
      const count = (to - from) * numExperts;
      sequence.logits.set(this.#fullLogits.subarray(done, done + count), from * numExperts);
      done += count;
    }
  }
}

/** Splits sequences into calls of at most `MAX_ROWS` tokens; the order of a sequence's tokens stays. */
function callsOf(sequences: readonly SlotTokens[]): readonly (readonly Piece[])[] {
  const calls: Piece[][] = [];
  let room = 0;
  for (const sequence of sequences) {
    const { length } = sequence.tokenIds;
    for (let from = 0; from < length;) {
      if (room === 0) {
        calls.push([]);
        room = MAX_ROWS;
      }
      const to = Math.min(length, from + room);
      calls.at(-1)?.push({ sequence, from, to });
      room -= to - from;
      from = to;
    }
  }
  return calls;
}
