// Long random lives of a pool, compared after every operation with a plain model of what it should hold.

import type { KvShape } from "@readme-moe/model";
import { expect, test } from "vitest";
import { KvPool } from "../../../packages/model/src/kv/kv-pool.ts";
import type { ArenaSlot } from "../../../packages/model/src/kv/kv-slot.ts";
import { randomInteger, seededRandom } from "../../support/random.ts";
import { expectSameContents, plainBlock, PlainKvPool, type PlainSequence } from "./plain-kv-pool.ts";

const SHAPES = [
  { numLayers: 2, numKvHeads: 2, headSize: 3 },
  { numLayers: 1, numKvHeads: 3, headSize: 2 },
  { numLayers: 3, numKvHeads: 1, headSize: 1 },
] as const satisfies readonly KvShape[];

/** A pool, its plain model, and random operations on both. */
class Life {
  readonly pool: KvPool;
  readonly plain: PlainKvPool;
  /** How often what happened, to see that a run met everything. */
  readonly seen = new Map<string, number>();
  readonly #random: () => number;
  readonly #longFromTokens: number;
  readonly #blocks: Float32Array[] = [];
  #nextValue = 1;

  constructor(shape: KvShape, capacityTokens: number, longFromTokens: number, seed: number) {
    this.pool = new KvPool({ shape, capacityTokens, longFromTokens });
    this.plain = new PlainKvPool(capacityTokens, longFromTokens);
    this.#longFromTokens = longFromTokens;
    this.#random = seededRandom(seed);
  }

  next(): void {
    const dice = this.#integer(100);
    const sequence = this.#any();
    if (dice < 15 || !sequence) this.#admit();
    else if (dice < 30) this.#stepOfAll();
    else if (dice < 60) this.#append(sequence, 1 + this.#integer(90));
    else if (dice < 68) this.#reserve(sequence, 1 + this.#integer(sequence.tokens.length + 200));
    else if (dice < 76) this.#release(sequence);
    else if (dice < 82) this.#truncate(sequence);
    else if (dice < 88) this.#compact();
    else if (dice < 94) this.#read(sequence);
    else this.#write(sequence);
  }

  #admit(): void {
    const limit = this.#integer(4) === 0 ? 3 * this.#longFromTokens : this.#longFromTokens;
    const numTokens = 1 + this.#integer(limit);
    const slot = this.#allOrNothing("admit", this.plain.hasRoom(undefined, numTokens), () =>
      this.pool.admit(numTokens),
    );
    if (slot) this.plain.add(slot, numTokens);
  }

  #reserve(sequence: PlainSequence, numTokens: number): boolean {
    const wasLong = sequence.isLong;
    const hasRoom = this.plain.hasRoom(sequence, numTokens);
    const isReserved = this.#allOrNothing("reserve", hasRoom, () => this.pool.reserve(sequence.slot, numTokens));
    if (!isReserved) return false;
    this.plain.reserve(sequence, numTokens);
    if (sequence.isLong && !wasLong) this.#saw("moved to the long arena");
    return true;
  }

  /** What fits must be done, and what does not must leave everything as it was. */
  #allOrNothing<Result>(name: string, hasRoom: boolean, act: () => Result): Result {
    const before = this.#books();
    const { bytesMoved } = this.pool;
    const result = act();
    expect(Boolean(result), name).toBe(hasRoom);
    if (!hasRoom) expect(this.#books()).toEqual(before);
    if (this.pool.bytesMoved > bytesMoved) this.#saw(`${name} moved others`);
    this.#saw(hasRoom ? name : `${name} refused`);
    return result;
  }

  #books(): unknown {
    const { usedTokens, bytesMoved } = this.pool;
    return { usedTokens, bytesMoved, slots: this.plain.sequences.map(({ slot }) => ({ ...slot })) };
  }

  #stepOfAll(): void {
    for (const sequence of this.plain.sequences) this.#append(sequence, 1);
  }

  /** Appends tokens from the middle of a step's output. */
  #append(sequence: PlainSequence, numTokens: number): void {
    if (!this.#reserve(sequence, sequence.tokens.length + numTokens)) return;
    const before = this.#integer(3);
    const tokens = Array.from({ length: before + numTokens + this.#integer(3) }, () => this.#newToken());
    const step = Float32Array.from(tokens.flatMap((token) => Array.from(token)));
    this.pool.append(sequence.slot, step, before, before + numTokens);
    sequence.tokens.push(...tokens.slice(before, before + numTokens));
    this.#saw("append");
  }

  #release(sequence: PlainSequence): void {
    this.pool.release(sequence.slot);
    this.plain.remove(sequence);
    expect(() => this.pool.release(sequence.slot)).toThrow(TypeError);
    this.#saw("release");
  }

  #truncate(sequence: PlainSequence): void {
    const numTokens = this.#integer(sequence.tokens.length + 1);
    this.pool.truncate(sequence.slot, numTokens);
    sequence.tokens.length = numTokens;
    this.#saw("truncate");
  }

  #compact(): void {
    const { usedTokens, bytesMoved } = this.pool;
    const bytes = this.pool.compact();
    expect(this.pool.bytesMoved - bytesMoved).toBe(bytes);
    expect(this.pool.usedTokens).toBeLessThanOrEqual(usedTokens);
    this.#saw(bytes > 0 ? "compact moved some" : "compact");
  }

  #read(sequence: PlainSequence): void {
    const from = this.#integer(sequence.tokens.length + 1);
    const to = from + this.#integer(sequence.tokens.length - from + 1);
    const block = this.pool.readBlock(sequence.slot, from, to);
    expect(block).toEqual(plainBlock(sequence, from, to, this.pool.shape));
    this.#blocks.push(block);
  }

  /** Gives a sequence a block that another one, or it, had once. */
  #write(sequence: PlainSequence): void {
    const block = this.#blocks.pop();
    if (!block) return;
    const { tokenSize } = this;
    const numTokens = block.length / tokenSize;
    const end = sequence.tokens.length;
    if (!this.#reserve(sequence, Math.max(1, end + numTokens))) return;
    this.pool.writeBlock(sequence.slot, end, block);
    const { headSize } = this.pool.shape;
    for (let token = 0; token < numTokens; token++) {
      const heads = Array.from({ length: tokenSize / headSize }, (_, head) => (head * numTokens + token) * headSize);
      sequence.tokens.push(
        Float32Array.from(heads.flatMap((start) => Array.from(block.subarray(start, start + headSize)))),
      );
    }
    this.#saw("write");
  }

  get tokenSize(): number {
    const { numLayers, numKvHeads, headSize } = this.pool.shape;
    return 2 * numLayers * numKvHeads * headSize;
  }

  #newToken(): Float32Array {
    return Float32Array.from({ length: this.tokenSize }, () => this.#nextValue++ % 2 ** 24);
  }

  #any(): PlainSequence | undefined {
    return this.plain.sequences[this.#integer(this.plain.sequences.length)];
  }

  #integer(limit: number): number {
    return randomInteger(this.#random, limit);
  }

  #saw(what: string): void {
    this.seen.set(what, (this.seen.get(what) ?? 0) + 1);
  }
}

/** Every array of the pool's memory, whole. */
function memoryOf(pool: KvPool, slot: ArenaSlot): readonly Float32Array[] {
  return Array.from({ length: pool.shape.numLayers }, (_, layer) => pool.view(pool.range([slot]), layer)).flatMap(
    ({ keys, values }) => [new Float32Array(keys.buffer), new Float32Array(values.buffer)],
  );
}

test.each([1, 2, 3, 4, 5, 6, 7, 8])("a pool holds what a plain model holds, whatever happens (seed %i)", (seed) => {
  const shape = SHAPES[seed % SHAPES.length] as KvShape;
  const longFromTokens = [100, 128, 200][seed % 3] as number;
  const life = new Life(shape, 64 * (10 + seed), longFromTokens, seed);
  for (let operation = 0; operation < 700; operation++) {
    life.next();
    expectSameContents(life.pool, life.plain);
  }
  // A run that never met one of these would prove nothing about it.
  expect(Array.from(life.seen.keys())).toEqual(
    expect.arrayContaining([
      "admit",
      "admit refused",
      "admit moved others",
      "reserve",
      "reserve refused",
      "reserve moved others",
      "moved to the long arena",
      "append",
      "release",
      "truncate",
      "compact moved some",
      "write",
    ]),
  );
});

test("the memory starts at zero, is allocated once and stays finite", () => {
  const shape = SHAPES[0];
  const life = new Life(shape, 64 * 16, 150, 42);
  const first = life.pool.admit(64 * 16) as ArenaSlot;
  const memory = memoryOf(life.pool, first);
  expect(memory.map(({ length }) => length)).toEqual(memory.map(() => 64 * 16 * shape.numKvHeads * shape.headSize));
  expect(memory.every((array) => array.every((value) => value === 0))).toBe(true);
  life.pool.release(first);

  for (let operation = 0; operation < 3000; operation++) life.next();
  while (life.plain.sequences.length > 0) {
    const sequence = life.plain.sequences[0] as PlainSequence;
    life.pool.release(sequence.slot);
    life.plain.remove(sequence);
  }
  const again = memoryOf(life.pool, life.pool.admit(1) as ArenaSlot);
  expect(again.map(({ buffer }, index) => buffer === memory[index]?.buffer)).toEqual(memory.map(() => true));
  expect(memory.every((array) => array.every((value) => Number.isFinite(value)))).toBe(true);
  expect(memory.some((array) => array.some((value) => value !== 0))).toBe(true);
});
