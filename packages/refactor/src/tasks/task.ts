// Tasks that fit a model's layers. A task's name and the plan decide its results, so any machine can run it.

import type { ModelConfig } from "@readme-moe/model";
import { TokenStream, type Batch } from "../layers/token-stream.ts";

/** Way in which experts are made that a report compares; the paper's experts need no fit. */
export type FitFamily = "ours" | "static" | "random";

export type Task =
  /** Takes a shard of the text through the end of the layer before and the beginning of this one. */
  | { readonly kind: "pass"; readonly layer: number; readonly shard: number }
  /** Adds up the statistics of all shards, and makes what all experts of the layer need. */
  | { readonly kind: "pool"; readonly layer: number }
  /** Fits one expert. `size` is an index of the shared sizes to choose among. */
  | {
      readonly kind: "fit";
      readonly layer: number;
      readonly family: FitFamily;
      readonly expert: number;
      readonly size: number;
    }
  /** Puts a layer together. */
  | { readonly kind: "layer"; readonly layer: number }
  /** Puts the costs of all shards together, after the last layer. */
  | { readonly kind: "costs" };

/** Numbers that limit those of tasks. */
export interface TaskBounds {
  readonly numLayers: number;
  readonly numShards: number;
  readonly numExperts: number;
  /** Number of shared sizes to choose among. */
  readonly numSizes: number;
  /** Whether the models that the result is compared with are fitted, too. */
  readonly baselines: boolean;
}

/** Returns a task's name: letters, digits and hyphens. */
export function taskName(task: Task): string {
  if (task.kind === "pass") return `pass-${task.layer}-${task.shard}`;
  if (task.kind === "fit") return `fit-${task.layer}-${task.family}-${task.expert}-${task.size}`;
  return task.kind === "costs" ? task.kind : `${task.kind}-${task.layer}`;
}

/** Finds the task with a name. @throws {RangeError} when there is none in the plan */
export function parseTask(name: string, bounds: TaskBounds): Task {
  const task = tasksOf(bounds).find((one) => taskName(one) === name);
  if (task) return task;
  throw new RangeError("Expected the name of a task of the plan, got another");
}

export function tasksOf(bounds: TaskBounds): readonly Task[] {
  const layers = Array.from({ length: bounds.numLayers }, (_, layer): readonly Task[] => [
    ...passesOf(layer, bounds),
    { kind: "pool", layer },
    ...fitsOf(layer, bounds),
    { kind: "layer", layer },
  ]);
  return [...layers.flat(), ...passesOf(bounds.numLayers, bounds), { kind: "costs" }];
}

/** Lists the parts of a task's result. They are stored in this order: who finds the last one finds all. */
export function partsOf(task: Task, { numLayers, numExperts, baselines }: TaskBounds): readonly string[] {
  if (task.kind === "pass") return task.layer < numLayers ? ["states", "statistics"] : ["states"];
  if (task.kind !== "pool") return ["result"];
  const own = Array.from({ length: numExperts }, (_, expert) => momentsPart(expert));
  return [...own, ALL_MOMENTS, ...(baselines ? [STATIC_MOMENTS] : []), "parts"];
}

/** Moments of all text. */
export const ALL_MOMENTS = "moments-all";
/** Moments of the text of the baseline without routing. */
export const STATIC_MOMENTS = "moments-static";

export function momentsPart(expert: number): string {
  return `moments-${expert}`;
}

export function passesOf(layer: number, { numShards }: TaskBounds): readonly Task[] {
  return Array.from({ length: numShards }, (_, shard) => ({ kind: "pass", layer, shard }));
}

export function fitsOf(layer: number, { numExperts, numSizes, baselines }: TaskBounds): readonly Task[] {
  const fits = (family: FitFamily, count: number, size = 0): readonly Task[] =>
    Array.from({ length: count }, (_, expert) => ({ kind: "fit", layer, family, expert, size }));
  return [
    ...Array.from({ length: numSizes }, (_, size) => fits("ours", numExperts, size)).flat(),
    ...(baselines ? [...fits("static", 1), ...fits("random", numExperts)] : []),
  ];
}

// Cuts calibration text into shards: runs of whole batches, which machines take through a layer side by side.

/** Tokens of a batch. More make larger matrix products, and larger arrays. */
export const BATCH_TOKENS = 1024;
/** The router learns from the experts' errors on every third batch. */
const COST_EVERY = 3;
/** The baseline without routing is fitted to every fourth sequence. */
const STATIC_EVERY = 4;
/** One of eight batches of each domain is held back when the shared size is chosen. */
const HELD_BACK_EVERY = 8;

/** Part of the calibration text. */
export interface Shard {
  readonly stream: TokenStream;
  /** Expert of each of the stream's domains. */
  readonly experts: readonly number[];
  readonly costBatches: ReadonlySet<Batch>;
  /** Batches that nothing is fitted to, for choosing the shared size. */
  readonly heldBack: ReadonlySet<Batch>;
  /** Stream of the baseline without routing; nothing if none of its text is in the shard. */
  readonly staticStream: TokenStream | undefined;
  /** Sequences of `stream` that are in `staticStream`. */
  readonly staticSequences: readonly number[];
}

/** Calibration text, whole and in shards. */
export interface ShardedText {
  readonly stream: TokenStream;
  readonly costSequences: readonly number[];
  readonly shards: readonly Shard[];
}

/** Options of `shardText`. */
interface ShardOptions {
  /** Most shards; there are never more than batches. */
  readonly shards: number;
  readonly holdsBack: boolean;
  readonly baselines: boolean;
}

/** @param groups - sequences of each expert */
export function shardText(
  config: ModelConfig,
  groups: readonly (readonly Int32Array[])[],
  options: ShardOptions,
): ShardedText {
  const stream = new TokenStream(config, groups, BATCH_TOKENS);
  const { batches } = stream;
  const count = Math.min(options.shards, batches.length);
  const costBatches = batches.filter((_, index) => index % COST_EVERY === 0);
  const chosen = { costs: new Set(costBatches), heldBack: options.holdsBack ? heldBackBatches(stream) : new Set() };
  const end = (shard: number): number => Math.floor((shard * batches.length) / count);
  const shards = Array.from({ length: count }, (_, shard) => {
    const own = batches.slice(end(shard), end(shard + 1));
    return shardOf({ config, stream, own, chosen, baselines: options.baselines });
  });
  return { stream, costSequences: costBatches.flatMap(sequencesOf), shards };
}

interface ShardInput {
  readonly config: ModelConfig;
  readonly stream: TokenStream;
  readonly own: readonly Batch[];
  readonly chosen: { readonly costs: ReadonlySet<unknown>; readonly heldBack: ReadonlySet<unknown> };
  readonly baselines: boolean;
}

function shardOf({ config, stream: whole, own, chosen, baselines }: ShardInput): Shard {
  const sequences = own.flatMap(sequencesOf);
  const experts = [...new Set(own.map(({ domain }) => domain))];
  const grouped = (kept: readonly number[]): readonly (readonly Int32Array[])[] =>
    experts.map((expert) =>
      kept.filter((sequence) => whole.domains[sequence] === expert).map((sequence) => whole.sequences[sequence]!),
    );
  // A shard begins where a batch does, so that its batches are those of the whole text.
  const stream = new TokenStream(config, grouped(sequences), BATCH_TOKENS);
  const batchesIn = (some: ReadonlySet<unknown>): ReadonlySet<Batch> =>
    new Set(stream.batches.filter((_, index) => some.has(own[index])));
  const kept = baselines
    ? sequences.filter((sequence) => (sequence - whole.domains.indexOf(whole.domains[sequence]!)) % STATIC_EVERY === 0)
    : [];
  return {
    stream,
    experts,
    costBatches: batchesIn(chosen.costs),
    heldBack: batchesIn(chosen.heldBack),
    staticStream: kept.length > 0 ? new TokenStream(config, grouped(kept), BATCH_TOKENS) : undefined,
    staticSequences: kept.map((sequence) => sequence - (sequences[0] ?? 0)),
  };
}

/** Selects the last of every eight batches of each domain; the last one of a domain with two to seven. */
export function heldBackBatches({ batches }: Pick<TokenStream, "batches">): ReadonlySet<Batch> {
  const domains = [...new Set(batches.map(({ domain }) => domain))];
  const chosen = domains.flatMap((one) => {
    const own = batches.filter(({ domain }) => domain === one);
    const every = Math.min(HELD_BACK_EVERY, own.length);
    return every < 2 ? [] : own.filter((_, index) => index % every === every - 1);
  });
  return new Set(chosen);
}

function sequencesOf({ firstSequence, numSequences }: Batch): readonly number[] {
  return Array.from({ length: numSequences }, (_, index) => firstSequence + index);
}
