// Numbers that an engine keeps of itself.

import type { ExpertCacheCounters } from "./expert-cache/expert-cache.ts";
import type { CostModel } from "./scheduling/cost-model.ts";
import type { DraftSource } from "./speculation/draft.ts";

/** Numbers of draft tokens. */
export interface DraftCounts {
  /** Draft tokens that ran through the model. */
  readonly draftedTokens: number;
  /** Draft tokens that became part of a completion. */
  readonly acceptedDraftTokens: number;
}

/** Numbers of draft tokens of each source that has drafted any. */
export type DraftsBySource = Readonly<Partial<Record<DraftSource, DraftCounts>>>;

/** Counters since the engine was opened, and its current load. */
export interface EngineStats extends DraftCounts {
  /** Sequences that wait for KV memory. */
  readonly numWaiting: number;
  /** Sequences that hold KV memory. */
  readonly numRunning: number;
  /** Tokens whose keys and values running sequences hold. */
  readonly kvUsedTokens: number;
  /** Number of tokens whose keys and values fit into KV memory. */
  readonly kvCapacityTokens: number;
  /** Steps that have run. */
  readonly steps: number;
  /** Tokens of accepted prompts. */
  readonly promptTokens: number;
  /** Prompt tokens whose keys and values came from the prefix cache. */
  readonly cachedTokens: number;
  /** Generated tokens. */
  readonly completionTokens: number;
  /** Draft tokens by their source, if the engine knows it. Sources that have drafted nothing are absent. */
  readonly draftsBySource?: DraftsBySource;
  /** Times that a running sequence lost its KV memory to others. */
  readonly preemptions: number;
  /** Resident memory of the process that runs the model, which is the caller's for a thread. */
  readonly residentBytes: number;
  /** Coefficients of a step's predicted time, as far as they are learned. Absent if the engine runs no steps itself. */
  readonly cost?: CostModel;
  /** Absent when all experts are in memory. */
  readonly expertCache?: ExpertCacheStats;
  /** Bytes of each expert that are not in memory. Absent when all are, and for a router in every layer. */
  readonly missingBytes?: readonly number[];
}

/** Statistics of streamed experts. A unit is one layer of one expert. */
export interface ExpertCacheStats extends ExpertCacheCounters {
  /** Bytes of one expert in each layer; of low-rank experts, those of the largest one as a single layer. */
  readonly layerBytes: readonly number[];
  /** Limit of the bytes of units in memory. */
  readonly budgetBytes: number;
  /** Bytes of units in memory, reads under way included. */
  readonly usedBytes: number;
  /** Reads that failed, retries included. */
  readonly failedReads: number;
  /** Time that steps waited for reads. */
  readonly stallMs: number;
}
