import { KvPool, type KvMemory, type KvShape } from "@readme-moe/model";
import type { ArenaSequence, StepSequence } from "./step-feeds.ts";

/** Narrows the memory that a step runs on to arenas of the model's shape. @throws {TypeError} for any other memory */
export function arenasOf(kv: KvMemory, { numLayers, numKvHeads, headSize }: KvShape): KvPool {
  if (!(kv instanceof KvPool)) throw new TypeError("Expected `kv` to be a memory that this runner opened");
  const { shape } = kv;
  if (shape.numLayers !== numLayers || shape.numKvHeads !== numKvHeads || shape.headSize !== headSize) {
    const [wanted, got] = [{ numLayers, numKvHeads, headSize }, shape].map(describeShape);
    throw new TypeError(`Expected \`kv\` to have the model's shape ${wanted}, got ${got}`);
  }
  return kv;
}

/** Narrows a step's slots to those of `pool`. @throws {TypeError} for any other slot */
export function placedIn(pool: KvPool, sequences: readonly StepSequence[]): readonly ArenaSequence[] {
  return sequences.map((sequence) => ({ ...sequence, slot: pool.arenaSlot(sequence.slot) }));
}

function describeShape({ numLayers, numKvHeads, headSize }: KvShape): string {
  return `[${numLayers} layers, ${numKvHeads} heads, ${headSize}]`;
}
