// The data of the live view, which the server sends to the page as JSON.

export const SCHEDULERS = ["cost-aware", "read-me", "fcfs"] as const;
export type SchedulerName = (typeof SCHEDULERS)[number];

/** Most simulated chats of one model. */
export const MAX_SIMULATED_CHATS = 16;

/** A model that the user can choose. */
export interface ModelChoice {
  /** Name in the API. */
  readonly name: string;
  /** Name without the precision. */
  readonly title: string;
  readonly precision: string;
  /** One name per expert; a dense model has one. */
  readonly experts: readonly string[];
  /** Kind of the experts: low-rank changes, which the API lists as models, or parts of the layers. */
  readonly expertKind: "low-rank" | "ffn";
  readonly hasRouter: boolean;
  readonly hasChatTemplate: boolean;
  readonly contextTokens: number;
}

/** A sequence of the running step. */
export interface LiveSequence {
  readonly id: string;
  /** 1 for decoding, more for a chunk of prefill. */
  readonly tokens: number;
  /** Pairs of an expert and its number of tokens, ascending by expert. */
  readonly experts: readonly (readonly [expert: number, tokens: number])[];
}

/** Experts within a memory budget. Counts are since the engine's start. */
export interface LiveMemory {
  readonly budgetBytes: number;
  readonly usedBytes: number;
  /** The smallest and the largest useful budget. */
  readonly leastBytes: number;
  readonly allBytes: number;
  readonly uses: number;
  readonly hits: number;
  readonly evictions: number;
  readonly bytesRead: number;
  /** A string for each expert with `1` (in memory) or `0` for each layer. */
  readonly resident: readonly string[];
}

/** A step that has run. */
export interface LivePastStep {
  readonly tokens: number;
  readonly distinctExperts: number;
  readonly durationMs: number;
}

export interface LiveSnapshot {
  readonly scheduler: SchedulerName;
  readonly simulatedChats: number;
  /** The latest scheduled step; absent while nothing runs. */
  readonly step?: { readonly number: number; readonly sequences: readonly LiveSequence[]; readonly more: number };
  /** Sequences in the queue. */
  readonly numWaiting: number;
  /** Mean over the last two seconds. */
  readonly tokensPerSecond: number;
  /** The last steps, oldest first. */
  readonly pastSteps: readonly LivePastStep[];
  /** Absent when all experts are in memory. */
  readonly memory?: LiveMemory;
}
