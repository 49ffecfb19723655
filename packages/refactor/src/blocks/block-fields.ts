// Places of a block's numbers, found by reading: bits are set one by one, and the numbers that change have them. The
// description that files are read by is thus the one that they are written by.

import { type BlockLayout, ggmlTypeOf } from "@readme-moe/model";

const ONE_IN_F16 = 0x3c00;

/** Integers of a block, each in some runs of bits. */
class BlockFields {
  readonly least: number;
  readonly most: number;
  /** Integer whose bits are all 0. */
  readonly #zero: number;
  /** Bounds of each number's runs in `#runs`. */
  readonly #ends: Int32Array;
  /** Four numbers for each run: its byte, its place there, the integer's bit that it begins with, and its mask. */
  readonly #runs: Int32Array;

  /**
   * @param block - with all bits of the numbers 0
   * @param isTried - tells which bytes may belong to the numbers
   */
  constructor(block: Uint8Array, isTried: (at: number) => boolean, read: (block: Uint8Array) => ArrayLike<number>) {
    const bytes = block.slice();
    const zeros = Array.from(read(bytes));
    const runs = zeros.map((): number[][] => []);
    let [least, most] = [zeros[0] ?? 0, zeros[0] ?? 0];
    for (let place = 0; place < 8 * bytes.length; place++) {
      const [at, shift] = [place >> 3, place & 7];
      if (!isTried(at)) continue;
      bytes[at] = block[at]! | (1 << shift);
      const numbers = read(bytes);
      bytes[at] = block[at]!;
      for (const [index, zero] of zeros.entries()) {
        const change = numbers[index]! - zero;
        if (change === 0) continue;
        if (index === 0 && change < 0) least += change;
        if (index === 0 && change > 0) most += change;
        const bit = Math.log2(Math.abs(change));
        const last = runs[index]?.at(-1);
        const isNext = last?.[0] === at && bit === last[2]! + shift - last[1]!;
        if (isNext) last[3] = 2 * last[3]! + 1;
        else runs[index]?.push([at, shift, bit, 1]);
      }
    }
    [this.least, this.most] = [least, most];
    this.#zero = zeros[0] ?? 0;
    let end = 0;
    this.#ends = Int32Array.from(runs, (own) => (end += 4 * own.length));
    this.#runs = Int32Array.from(runs.flat(2));
  }

  /** Adds numbers to a block whose bits of them are 0. @param numbers - within `least` and `most` */
  write(block: Uint8Array, start: number, numbers: ArrayLike<number>): void {
    const [ends, runs] = [this.#ends, this.#runs];
    const zero = this.#zero;
    let at = 0;
    for (let index = 0; index < ends.length; index++) {
      const number = numbers[index]! - zero;
      for (const end = ends[index]!; at < end; at += 4) {
        block[start + runs[at]!]! |= ((number >> runs[at + 2]!) & runs[at + 3]!) << runs[at + 1]!;
      }
    }
  }
}

/** Description of a type that blocks are written by. */
export interface WritableBlock {
  readonly layout: BlockLayout;
  readonly blockValues: number;
  readonly scaleAt: number;
  /** Absent for types without a minimum. */
  readonly minimumAt: number | undefined;
  /** Sign with which values have the minimum. */
  readonly minimumSign: number;
  readonly quants: BlockFields;
  /** Factors of groups' scales and minimums; absent for types of one group. */
  readonly scales: BlockFields | undefined;
  readonly minimums: BlockFields | undefined;
}

const known = new Map<string, WritableBlock>();

/** Finds the places of a type's numbers. @throws {TypeError} for a type that is only read */
export function writableBlock(type: string): WritableBlock {
  const made = known.get(type) ?? describe(type);
  known.set(type, made);
  return made;
}

function describe(type: string): WritableBlock {
  const { layout, blockValues = 0 } = ggmlTypeOf(type) ?? {};
  if (!layout?.floatsAt) throw new TypeError(`Expected a type that blocks are written in, got \`${type}\``);
  const { blockBytes, numGroups, groupSize, floatsAt, scaleOf, minimumOf, readQuants } = layout;
  const [scaleAt, minimumAt] = floatsAt;
  const block = new Uint8Array(blockBytes);
  for (const at of [scaleAt, minimumAt ?? scaleAt]) new DataView(block.buffer).setUint16(at, ONE_IN_F16, true);
  const isTried = (at: number): boolean => floatsAt.every((half) => half === undefined || at >> 1 !== half >> 1);
  const ofGroups = (read: (bytes: Uint8Array, group: number) => number): BlockFields =>
    new BlockFields(block, isTried, (bytes) => Array.from({ length: numGroups }, (_, group) => read(bytes, group)));
  const group = new Int16Array(groupSize);
  return {
    layout,
    blockValues,
    scaleAt,
    minimumAt,
    minimumSign: numGroups > 1 ? -1 : 1,
    quants: new BlockFields(block, isTried, (bytes) => {
      const values = new Int16Array(blockValues);
      for (let index = 0; index < numGroups; index++) {
        readQuants(bytes, 0, index, group);
        values.set(group, index * groupSize);
      }
      return values;
    }),
    scales: numGroups > 1 ? ofGroups((bytes, index) => scaleOf(bytes, 0, index)) : undefined,
    minimums: numGroups > 1 && minimumOf ? ofGroups((bytes, index) => -minimumOf(bytes, 0, index)) : undefined,
  };
}
