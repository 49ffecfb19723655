// Cuts calibration text into shards: runs of whole batches, which machines take through a layer side by side.

import type { ModelConfig } from "@readme-moe/model";
import { TokenStream, type Batch } from "../layers/token-stream.ts";

/** Tokens of a batch. More make larger matrix products, and larger arrays. */
const BATCH_TOKENS = 1024;
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
  /** Batches that costs are measured on. */
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
  /** Sequences that costs are measured on. */
  readonly costSequences: readonly number[];
  readonly shards: readonly Shard[];
}

/** Options of `shardText`. */
export interface ShardOptions {
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
