import type { LayerConfig, RecurrenceConfig } from "@readme-moe/model";
import { panelWidth } from "../pack/pack-tables.ts";

/**
 * A sequence's place in the KV memory that admitted it. The handle stays the same object for the sequence's whole life.
 *
 * Only the memory and the runner that opened it change a slot.
 */
export interface KvSlot {
  /** Number of filled positions: `[0, numTokens)`. */
  readonly numTokens: number;
  /** Number of positions with room: `[0, reservedTokens)`, whatever happens to other sequences. */
  readonly reservedTokens: number;
}

/** Keys and values of some positions, kept beyond the sequence that computed them. Only their memory can read them. */
export interface KeptTokens {
  /** First of the positions, at which other sequences must use them. */
  readonly from: number;
  /** Number of positions. */
  readonly numTokens: number;
  /** Size of their keys and values in all layers. */
  readonly bytes: number;
}

/** Options of `StepRunner.openKv`. */
export interface KvMemoryOptions {
  /** Number of positions of all running sequences together; a multiple of 64. */
  readonly capacityTokens: number;
  /** Memory for kept tokens that running sequences cannot claim, in bytes. @default 0 */
  readonly prefixBytes?: number | undefined;
  /** Largest number of sequences that are admitted together, of a model with recurrences. @default 16 */
  readonly maxSequences?: number | undefined;
  /** Number of drafted tokens of all sequences together in a step, of such a model. @default 32 */
  readonly drafts?: number | undefined;
}

/** A sequence's state at a position, kept beyond the sequence that computed it. */
export interface KeptState {
  /** Number of positions that the state has seen. */
  readonly position: number;
  readonly bytes: number;
}

/** States of the sequences of a model with recurrences. Without any, nothing is kept, and there is always room. */
export interface KvStates {
  /** Size of a state, 0 of models without recurrences. */
  readonly stateBytes: number;
  /** Promises further states to the next step of a slot. @returns whether there is room */
  reserve(slot: KvSlot, drafted: number): boolean;
  /** Begins a step of a slot at its last position: drops the states before it. */
  begin(slot: KvSlot): void;
  /** Keeps a slot's state at a position; `undefined` when it has none. */
  keep(slot: KvSlot, position: number): KeptState | undefined;
  /** Frees a kept state. @throws {TypeError} for one that was dropped, or is another memory's */
  drop(kept: KeptState): void;
}

/**
 * Keys and values of all running sequences of one model.
 *
 * Methods throw a `TypeError` on a slot or kept tokens that this memory does not hold.
 */
export interface KvMemory {
  readonly capacityTokens: number;
  /** Number of positions of all slots, including padding. */
  readonly usedTokens: number;
  /** Size of one position's keys and values in all layers. */
  readonly bytesPerToken: number;
  /** States of a model with recurrences. */
  readonly states: KvStates;

  /**
   * Admits a sequence that begins with `prefix`.
   *
   * @param numTokens - number of positions to reserve, including those of `prefix`
   * @param prefix - kept tokens of positions 0 and up, without a gap
   * @param state - state behind them, of a model with recurrences
   * @returns a slot with the prefix filled in, or `undefined`, with nothing changed, when there is no room
   */
  admit(numTokens: number, prefix?: readonly KeptTokens[], state?: KeptState): KvSlot | undefined;

  /** Reserves positions `[0, numTokens)`. @returns whether there is room; nothing has changed when there is none */
  reserve(slot: KvSlot, numTokens: number): boolean;

  /** Ends a slot and frees its memory. */
  release(slot: KvSlot): void;

  /** Drops the positions from `numTokens` on. Their room may be freed, so the next step needs `reserve` again. */
  truncate(slot: KvSlot, numTokens: number): void;

  /**
   * Keeps filled positions `[from, to)` of a slot for other sequences, until `drop`. What is kept beyond `prefixBytes`
   * lies in memory that no slot needs yet.
   */
  keep(slot: KvSlot, from: number, to: number): KeptTokens;

  /** Tells whether a part of kept tokens is in no slot, so that `drop` may free memory. */
  isIdle(kept: KeptTokens): boolean;

  /**
   * Sets what frees memory when slots need that of kept tokens.
   * @param evict - drops some kept tokens that are idle; returns false when there are none
   */
  onShortage(evict: () => boolean): void;

  /** Frees kept tokens; slots that were admitted with them are not affected. */
  drop(kept: KeptTokens): void;

  /** Frees all memory; slots cannot be used afterwards. */
  dispose(): void;

  /** Checks the accounting. @throws {Error} with the numbers that do not agree */
  checkIntegrity(): void;
}

/** Number of positions in a block; the size of KV memory is a number of blocks. */
export const KV_BLOCK_TOKENS = 64;

/** Sizes of a model's keys and values: `[numLayers, numKvHeads, headSize]` floats of each, for each position. */
export interface KvShape {
  readonly numLayers: number;
  readonly numKvHeads: number;
  readonly headSize: number;
  /**
   * Layers, of which those with a recurrence have no keys and values, but a state; some may have other heads, or read
   * the keys and values of others. @default all have attention
   */
  readonly layers?: readonly KvLayer[] | undefined;
  readonly recurrence?: RecurrenceConfig | undefined;
  /** Parts of an encoder, which keeps keys and values of one layer at a time. @default a decoder */
  readonly encoder?: object | undefined;
}

/** Properties of a layer that its keys and values depend on. */
type KvLayer = Pick<LayerConfig, "isRecurrent" | "heads" | "keysOf">;

/** Returns the number of positions in the blocks that hold a number of tokens. */
export function wholeBlocks(tokens: number): number {
  return Math.ceil(tokens / KV_BLOCK_TOKENS) * KV_BLOCK_TOKENS;
}

/** Number type that keys and values are stored in; "int8" has a float32 scale for each key and each value of a head. */
export type KvPrecision = "fp32" | "fp16" | "int8";

/** Number types in the order of `KvType` in `native/loops.h`. */
export const KV_PRECISIONS: readonly KvPrecision[] = ["fp32", "fp16", "int8"];

/** Returns the size of one token's keys and values in all layers, in bytes. */
export function kvBytesPerToken(shape: KvShape, precision: KvPrecision = "fp32"): number {
  return bytesOf(headsOf(shape), precision);
}

/** Returns the same as the kernel lays it out, which pads heads to whole vectors. */
export function paddedBytesPerToken(shape: KvShape, precision: KvPrecision): number {
  const padded = headsOf(shape).map((heads) => ({ ...heads, headSize: 16 * Math.ceil(heads.headSize / 16) }));
  return bytesOf(padded, precision);
}

function bytesOf(layers: readonly KvHeads[], precision: KvPrecision): number {
  return layers.reduce((sum, { numKvHeads, headSize }) => {
    const headBytes = { fp32: 4 * headSize, fp16: 2 * headSize, int8: headSize + 4 }[precision];
    return sum + 2 * numKvHeads * headBytes;
  }, 0);
}

/** Lists the heads of the layers that keep keys and values. */
function headsOf({ numLayers, numKvHeads, headSize, layers = [], encoder }: KvShape): readonly KvHeads[] {
  const all = Array.from({ length: numLayers }, (_, layer): KvLayer => layers[layer] ?? {});
  const own = { numKvHeads, headSize };
  if (encoder) return [own];
  return all.filter(({ isRecurrent, keysOf }) => !isRecurrent && keysOf === undefined).map(({ heads }) => heads ?? own);
}

type KvHeads = Pick<KvShape, "numKvHeads" | "headSize">;

function numRecurrent({ layers = [] }: Pick<KvShape, "layers">): number {
  return layers.filter(({ isRecurrent }) => isRecurrent).length;
}

/** Returns the size of a sequence's state in all layers with a recurrence, as the kernel lays it out, in bytes. */
export function stateBytes({ layers, recurrence }: Pick<KvShape, "layers" | "recurrence">): number {
  if (!recurrence) return 0;
  const { kind, numTaps, numKeyHeads, keySize, numValueHeads, valueSize } = recurrence;
  const [keys, values] = [numKeyHeads * keySize, numValueHeads * valueSize];
  const width = kind === "convolution" ? panelWidth(values) : 2 * panelWidth(keys) + panelWidth(values);
  const ofHeads = kind === "convolution" ? 0 : numValueHeads * keySize * 16 * Math.ceil(valueSize / 16);
  return numRecurrent({ layers }) * 4 * ((numTaps - 1) * width + ofHeads);
}
