// Shards of a step: parts of its sequences whose gradients are summed on their own, here or on other machines.

import { addInto } from "../experts/moments.ts";

/** Gradients of one shard. */
export interface ShardGradients {
  /** Sum of the weighted cross-entropies of the shard's tokens. */
  readonly crossEntropy: number;
  /** Gradients by the keys of parameters. */
  readonly gradients: ReadonlyMap<string, Float32Array>;
}

/** One step, whose gradients are wanted. */
export interface WantedStep {
  /** Number of the step, from 0. */
  readonly step: number;
  /** Lists the parameters that the gradients depend on, by key. */
  readonly values: () => ReadonlyMap<string, Float32Array>;
  /** Computes a shard on this machine. */
  readonly here: (shard: number) => Promise<ShardGradients>;
}

/** Gradients of a step. */
export interface ComputedStep {
  /** Called once for each shard, in their order. */
  readonly read: (shard: number) => Promise<ShardGradients>;
  /** Called when all shards are read. */
  readonly end: () => Promise<void>;
}

/** Computes the gradients of a step, here or on other machines. */
export type ComputeStep = (wanted: WantedStep) => Promise<ComputedStep>;

/** Computes each shard when it is read. */
export async function computeHere({ here }: WantedStep): Promise<ComputedStep> {
  return { read: here, end: () => Promise.resolve() };
}

/** Cuts sequences into `count` runs of equal length; `count` divides their number. */
export function cutShards<Sequence>(sequences: readonly Sequence[], count: number): readonly (readonly Sequence[])[] {
  const size = sequences.length / count;
  return Array.from({ length: count }, (_, shard) => sequences.slice(shard * size, (shard + 1) * size));
}

/** Adds up gradients by key, in the order in which they are given. The first array of each key is kept. */
export function gradientSum(): {
  readonly sums: ReadonlyMap<string, Float32Array>;
  readonly add: (key: string, gradient: Float32Array) => void;
} {
  const sums = new Map<string, Float32Array>();
  const add = (key: string, gradient: Float32Array): void => {
    const sum = sums.get(key);
    if (sum) addInto(sum, gradient);
    else sums.set(key, gradient);
  };
  return { sums, add };
}
