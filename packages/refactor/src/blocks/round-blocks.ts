// Rounds weights to the blocks of GGUF files, so that products err least on typical inputs. Where llama.cpp's
// quantisers search, so does this: scales of groups by least squares from many starts, then integer factors of them.

import { describeValue } from "@readme-moe/core";
import { type BlockType, F16_VALUES, f16BitsOf } from "@readme-moe/model";
import { writableBlock, type WritableBlock } from "./block-fields.ts";

/** Types that weights can be rounded to, those with the most bits first. */
export const ROUNDED_TYPES = ["Q8_0", "Q6_K", "Q5_1", "Q5_K", "Q5_0", "Q4_1", "Q4_K", "Q4_0", "Q3_K", "Q2_K"] as const;
/** Type of blocks that weights can be rounded to. */
export type RoundedType = (typeof ROUNDED_TYPES)[number] & BlockType;

const MAX_F16 = 65_504;
const rounders = new Map<RoundedType, BlockRounder>();

/**
 * Rounds rows of weights to blocks.
 *
 * Errors count by their squares, times `importance` of their column, times `√(mean square of the block + weight²)`:
 * large weights meet large inputs more often than a mean over text shows.
 *
 * @param weights - whole blocks
 * @param importance - mean square of each column of the rows in the inputs of the product, up to a common factor, not
 *   negative; all columns count the same without it
 * @throws {RangeError} when weights are no whole blocks, when one is not finite, or too large for a scale in F16
 */
export function roundToBlocks(weights: Float32Array, type: RoundedType, importance?: Float32Array): Uint8Array {
  const rounder = rounders.get(type) ?? (type === "Q8_0" ? new EightBits() : new BlockSearch(type));
  rounders.set(type, rounder);
  const { blockValues, blockBytes } = rounder;
  if (weights.length % blockValues !== 0 || (importance && importance.length % blockValues !== 0)) {
    const got = `${weights.length} in rows of ${importance?.length ?? "any length"}`;
    throw new RangeError(`Expected weights in whole blocks of ${blockValues} for ${type}, got ${got}`);
  }
  const unfit = importance?.findIndex((value) => !(value >= 0 && value < Infinity)) ?? -1;
  if (unfit >= 0) throw new RangeError(`Expected importance to be finite and at least 0, got ${importance![unfit]}`);
  const bytes = new Uint8Array((weights.length / blockValues) * blockBytes);
  for (let from = 0, at = 0; from < weights.length; from += blockValues, at += blockBytes) {
    const largest = largestOf(weights, from, from + blockValues);
    const column = importance ? from % importance.length : 0;
    const isRounded = Number.isFinite(largest) && rounder.round({ weights, from, importance, column, bytes, at });
    if (isRounded) continue;
    throw new RangeError(`Expected finite weights that ${type} can hold, got a block up to ${describeValue(largest)}`);
  }
  return bytes;
}

/** A block: its weights, its columns' importance, and where its bytes go. */
interface Block {
  readonly weights: Float32Array;
  readonly from: number;
  readonly importance: Float32Array | undefined;
  readonly column: number;
  readonly bytes: Uint8Array;
  readonly at: number;
}

interface BlockRounder {
  readonly blockValues: number;
  readonly blockBytes: number;
  /** Rounds a block of finite weights. @returns false when they are too large for F16 */
  round(block: Block): boolean;
}

/** Finds the largest magnitude; NaN when there is one. */
function largestOf(weights: Float32Array, from: number, to: number): number {
  let largest = 0;
  for (let i = from; i < to; i++) {
    const magnitude = Math.abs(weights[i]!);
    if (!(magnitude <= largest)) largest = magnitude;
    if (magnitude !== magnitude) return magnitude;
  }
  return largest;
}

const float = new Float32Array(1);
const bits = new Int32Array(float.buffer);

function f16Of(value: number): number {
  float[0] = value;
  return f16BitsOf(bits[0]!);
}

/** Rounds to the nearest number in F16. */
function toF16(value: number): number {
  return F16_VALUES[f16Of(value)]!;
}

function writeF16(bytes: Uint8Array, at: number, value: number): void {
  const half = f16Of(value);
  bytes[at] = half & 255;
  bytes[at + 1] = half >> 8;
}

/** Q8_0, as llama.cpp rounds it, to the bit: the largest magnitude becomes 127, halves are rounded away from zero. */
class EightBits implements BlockRounder {
  readonly blockValues: number;
  readonly blockBytes: number;
  readonly #block = writableBlock("Q8_0");
  readonly #quants = new Int32Array(32);

  constructor() {
    this.blockValues = this.#block.blockValues;
    this.blockBytes = this.#block.layout.blockBytes;
  }

  round({ weights, from, bytes, at }: Block): boolean {
    const quants = this.#quants;
    // All in float32, as in llama.cpp, and by the scale before it is rounded.
    const scale = Math.fround(largestOf(weights, from, from + quants.length) / 127);
    const inverse = scale === 0 ? 0 : Math.fround(1 / scale);
    for (let i = 0; i < quants.length; i++) {
      const quotient = Math.fround(weights[from + i]! * inverse);
      const rounded = quotient < 0 ? -Math.floor(0.5 - quotient) : Math.floor(quotient + 0.5);
      // The inverse of a subnormal scale is infinite; such a scale is 0 in F16, so any quant means 0.
      quants[i] = Math.max(-127, Math.min(127, rounded));
    }
    writeF16(bytes, at + this.#block.scaleAt, scale);
    this.#block.quants.write(bytes, at, quants);
    return scale <= MAX_F16;
  }
}

/** Starts of the search: levels by which the extreme weight is mapped beyond the last one, or short of it. */
const STARTS = Float64Array.from({ length: 9 }, (_, index) => 0.2 * (index - 4));
/** Further starts, which matter to types with many levels: steps of the share of levels beyond the last one. */
const CLIPPED = 0.05;
const NUM_CLIPPED = 3;

/** Changes of a group's factors that are tried: two of the scale's, two of the minimum's. */
const NEIGHBOURS = Int32Array.of(1, -1, 1, -1);

/** Scales and minimums of groups; minimums are subtracted. */
interface GroupNumbers {
  readonly scales: Float64Array;
  readonly minimums: Float64Array;
}

/** A solution of a block: scale and minimum in F16, the factors of groups, and all quants. */
interface Solution {
  error: number;
  scale: number;
  minimum: number;
  readonly scales: Int32Array;
  readonly minimums: Int32Array;
  readonly levels: Int32Array;
}

/** Rounds one block after another in the same memory. */
class BlockSearch implements BlockRounder {
  readonly blockValues: number;
  readonly blockBytes: number;
  readonly #block: WritableBlock;
  readonly #numGroups: number;
  readonly #groupSize: number;
  /** Number of the highest level; the lowest one is 0. */
  readonly #top: number;
  /** Level of weights that are 0, in types without a minimum. */
  readonly #zero: number;
  readonly #weights: Float64Array;
  readonly #importance: Float64Array;
  /** Scales and minimums of groups as the search finds them, and as the extremes give them. */
  readonly #found: GroupNumbers;
  readonly #plain: GroupNumbers;
  #best: Solution;
  #trial: Solution;
  /** Results of the last pass over a group. */
  #groupScale = 0;
  #groupMinimum = 0;

  constructor(type: RoundedType) {
    const block = writableBlock(type);
    const { layout, blockValues, quants } = block;
    const { numGroups } = layout;
    this.#block = block;
    this.blockValues = blockValues;
    this.blockBytes = layout.blockBytes;
    this.#numGroups = numGroups;
    this.#groupSize = layout.groupSize;
    this.#top = quants.most - quants.least;
    this.#zero = -quants.least;
    this.#weights = new Float64Array(blockValues);
    this.#importance = new Float64Array(blockValues);
    const groups = () => ({ scales: new Float64Array(numGroups), minimums: new Float64Array(numGroups) });
    [this.#found, this.#plain] = [groups(), groups()];
    const solution = (): Solution => ({
      error: Infinity,
      scale: 0,
      minimum: 0,
      scales: new Int32Array(numGroups).fill(1),
      minimums: new Int32Array(numGroups),
      levels: new Int32Array(blockValues),
    });
    [this.#best, this.#trial] = [solution(), solution()];
  }

  round(block: Block): boolean {
    this.#weigh(block);
    const hasMinimum = this.#block.minimumAt !== undefined;
    for (let group = 0; group < this.#numGroups; group++) {
      if (hasMinimum) this.#searchRange(group);
      else this.#searchScale(group);
      this.#found.scales[group] = this.#groupScale;
      this.#found.minimums[group] = this.#groupMinimum;
    }
    this.#best.error = Infinity;
    this.#solve(this.#plain, false);
    this.#solve(this.#found, true);
    // Without an error that is a number, scales are beyond F16.
    if (this.#best.error === Infinity) return false;
    for (let time = 0; time < 2 && this.#refit(); time++);
    this.#write(block);
    return true;
  }

  #weigh({ weights, from, importance, column }: Block): void {
    let squares = 0;
    for (let i = 0; i < this.blockValues; i++) {
      const weight = weights[from + i]!;
      this.#weights[i] = weight;
      squares += weight * weight;
    }
    const mean = squares / this.blockValues;
    for (let i = 0; i < this.blockValues; i++) {
      const weight = this.#weights[i]!;
      // Weights whose squares vanish still have to be told from zeros.
      const size = Math.sqrt(mean + weight * weight) || 1;
      this.#importance[i] = importance ? importance[column + i]! * size : size;
    }
  }

  /** Finds a group's scale for levels on both sides of 0. */
  #searchScale(group: number): void {
    const [from, to] = [group * this.#groupSize, (group + 1) * this.#groupSize];
    const [weights, importance, zero, top] = [this.#weights, this.#importance, this.#zero, this.#top];
    let extreme = 0;
    for (let i = from; i < to; i++) if (Math.abs(weights[i]!) > Math.abs(extreme)) extreme = weights[i]!;
    this.#plain.scales[group] = this.#groupScale = -extreme / zero;
    if (extreme === 0) return;
    let best = -1;
    const numStarts = STARTS.length + NUM_CLIPPED;
    for (let start = 0; start < 2 * numStarts; start++) {
      // The extreme weight may also be mapped near the highest level, which has a smaller magnitude.
      const shift = this.#startOf(start % numStarts, zero);
      const inverse = (start < numStarts ? -(zero + shift) : top - zero + shift) / extreme;
      let products = 0;
      let squares = 0;
      for (let i = from; i < to; i++) {
        const place = weights[i]! * inverse + zero + 0.5;
        // Comparing before truncating is several times as fast as rounding and clamping with `Math`.
        const level = (place < 1 ? 0 : place >= top ? top : place | 0) - zero;
        const weighted = importance[i]! * level;
        products += weighted * weights[i]!;
        squares += weighted * level;
      }
      // The error is the sum of the weights' squares less this.
      const gain = squares > 0 ? (products * products) / squares : 0;
      if (gain <= best) continue;
      best = gain;
      if (squares > 0) this.#groupScale = products / squares;
    }
  }

  #startOf(index: number, levels: number): number {
    return index < STARTS.length ? STARTS[index]! : levels * CLIPPED * (index - STARTS.length + 1);
  }

  /** Finds a group's scale and minimum, which is at most 0, for levels from 0 up. */
  #searchRange(group: number): void {
    const [from, to] = [group * this.#groupSize, (group + 1) * this.#groupSize];
    const [weights, importance, top] = [this.#weights, this.#importance, this.#top];
    let [least, most, all, values] = [0, -Infinity, 0, 0];
    for (let i = from; i < to; i++) {
      const weight = weights[i]!;
      if (weight < least) least = weight;
      if (weight > most) most = weight;
      all += importance[i]!;
      values += importance[i]! * weight;
    }
    this.#plain.scales[group] = this.#groupScale = (most - least) / top;
    this.#plain.minimums[group] = this.#groupMinimum = -least;
    if (!(most > least)) return;
    let best = Infinity;
    const perRange = 1 / (most - least);
    for (let start = 0; start < STARTS.length + NUM_CLIPPED; start++) {
      const inverse = (top + this.#startOf(start, top)) * perRange;
      // Levels beyond the last one are shared by both ends of the range.
      const half = 0.5 - least * inverse - (start < STARTS.length ? 0 : this.#startOf(start, top) / 2);
      let levels = 0;
      let squares = 0;
      let products = 0;
      for (let i = from; i < to; i++) {
        const place = weights[i]! * inverse + half;
        const level = place < 1 ? 0 : place >= top ? top : place | 0;
        const weighted = importance[i]! * level;
        levels += weighted;
        squares += weighted * level;
        products += weighted * weights[i]!;
      }
      const determinant = all * squares - levels * levels;
      let scale = (all * products - levels * values) / determinant;
      let minimum = (squares * values - levels * products) / determinant;
      if (!(determinant > 0) || minimum > 0) [scale, minimum] = [products / squares, 0];
      if (!(scale > 0)) continue;
      // The error less the sum of the weights' squares.
      const error =
        scale * (scale * squares - 2 * products) + minimum * (2 * scale * levels + minimum * all - 2 * values);
      if (error >= best) continue;
      best = error;
      this.#groupScale = scale;
      this.#groupMinimum = -minimum;
    }
  }

  /**
   * Rounds groups' scales to factors of the block's, and takes the result if it is better.
   *
   * @param triesOthers - compares the factors beside the nearest ones, too
   */
  #solve({ scales, minimums }: GroupNumbers, triesOthers: boolean): void {
    const trial = this.#trial;
    const { scales: scaleFields, minimums: minimumFields, minimumAt } = this.#block;
    const hasMinimum = minimumAt === undefined ? 0 : 1;
    trial.scale = toF16(scaleFields ? extremeOf(scales) / edgeOf(scaleFields) : scales[0]!);
    trial.minimum = toF16(minimumFields ? extremeOf(minimums) / minimumFields.most : minimums[0]!);
    trial.error = 0;
    for (let group = 0; group < this.#numGroups; group++) {
      const scale = scaleFields ? nearest(scales[group]! / trial.scale, scaleFields) : 1;
      const minimum = minimumFields ? nearest(minimums[group]! / trial.minimum, minimumFields) : hasMinimum;
      trial.scales[group] = scale;
      trial.minimums[group] = minimum;
      let best = this.#level(group);
      const numWays = triesOthers ? NEIGHBOURS.length : 0;
      for (let way = 0; way < numWays; way++) {
        const fields = way < 2 ? scaleFields : minimumFields;
        const factors = way < 2 ? trial.scales : trial.minimums;
        const factor = factors[group]!;
        const other = factor + NEIGHBOURS[way]!;
        if (!fields || other < fields.least || other > fields.most) continue;
        factors[group] = other;
        const error = this.#level(group);
        if (error < best) best = error;
        else factors[group] = factor;
      }
      trial.error += this.#level(group);
    }
    this.#keepBetter();
  }

  #keepBetter(): boolean {
    if (!(this.#trial.error < this.#best.error)) return false;
    [this.#best, this.#trial] = [this.#trial, this.#best];
    return true;
  }

  /** Rounds a group's weights to the trial's levels. @returns the error */
  #level(group: number): number {
    const scale = this.#trial.scale * this.#trial.scales[group]!;
    const minimum = this.#trial.minimum * this.#trial.minimums[group]!;
    const from = group * this.#groupSize;
    const to = from + this.#groupSize;
    const weights = this.#weights;
    const importance = this.#importance;
    const top = this.#top;
    const { levels } = this.#trial;
    const least = this.#block.minimumAt === undefined ? -this.#zero * scale : -minimum;
    const inverse = scale === 0 ? 0 : 1 / scale;
    const half = 0.5 - least * inverse;
    let error = 0;
    for (let i = from; i < to; i++) {
      const place = weights[i]! * inverse + half;
      const level = place < 1 ? 0 : place >= top ? top : place | 0;
      levels[i] = level;
      const missed = weights[i]! - (scale * level + least);
      error += importance[i]! * missed * missed;
    }
    return error;
  }

  /** Fits scale and minimum of the block to the best solution's integers. @returns whether that is better */
  #refit(): boolean {
    const [{ scales, minimums, levels }, trial] = [this.#best, this.#trial];
    const zero = this.#block.minimumAt === undefined ? this.#zero : 0;
    let [aa, ab, bb, ax, bx] = [0, 0, 0, 0, 0];
    for (let i = 0, group = 0; group < this.#numGroups; group++) {
      const factor = scales[group]!;
      const b = -minimums[group]!;
      for (const end = i + this.#groupSize; i < end; i++) {
        const a = factor * (levels[i]! - zero);
        const h = this.#importance[i]!;
        const weight = this.#weights[i]!;
        aa += h * a * a;
        ab += h * a * b;
        bb += h * b * b;
        ax += h * a * weight;
        bx += h * b * weight;
      }
    }
    const determinant = aa * bb - ab * ab;
    const [scale, minimum] =
      determinant > 0 ? [(bb * ax - ab * bx) / determinant, (aa * bx - ab * ax) / determinant] : [ax / aa, 0];
    trial.scale = toF16(scale);
    trial.minimum = toF16(minimum);
    if (!Number.isFinite(trial.scale) || !(trial.minimum >= 0) || trial.minimum > MAX_F16) return false;
    trial.error = 0;
    trial.scales.set(scales);
    trial.minimums.set(minimums);
    for (let group = 0; group < this.#numGroups; group++) trial.error += this.#level(group);
    return this.#keepBetter();
  }

  #write({ bytes, at }: Block): void {
    const { quants, scales, minimums, scaleAt, minimumAt, minimumSign } = this.#block;
    const best = this.#best;
    writeF16(bytes, at + scaleAt, best.scale);
    if (minimumAt !== undefined) writeF16(bytes, at + minimumAt, -minimumSign * best.minimum);
    for (let i = 0; i < best.levels.length; i++) best.levels[i]! += quants.least;
    quants.write(bytes, at, best.levels);
    scales?.write(bytes, at, best.scales);
    minimums?.write(bytes, at, best.minimums);
  }
}

/** Finds the number of largest magnitude, with its sign. */
function extremeOf(numbers: Float64Array): number {
  let extreme = 0;
  for (const number of numbers) if (Math.abs(number) > Math.abs(extreme)) extreme = number;
  return extreme;
}

interface Bounds {
  readonly least: number;
  readonly most: number;
}

/** Returns the bound of largest magnitude. */
function edgeOf({ least, most }: Bounds): number {
  return -least > most ? least : most;
}

/** Rounds to the nearest integer within bounds; 0 for NaN. */
function nearest(value: number, { least, most }: Bounds): number {
  return Math.max(least, Math.min(most, Math.round(value))) || 0;
}
