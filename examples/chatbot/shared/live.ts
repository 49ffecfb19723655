// What the server tells the page beside answers: plain data, as JSON.

export const SCHEDULERS = ["cost-aware", "read-me", "fcfs"] as const;
export type SchedulerName = (typeof SCHEDULERS)[number];

/** Simulated chats that one model runs at most. */
export const MAX_SIMULATED_CHATS = 16;

/** A model that the page can choose. */
export interface ModelChoice {
  /** As the API knows it. */
  readonly name: string;
  /** Without the precision. */
  readonly title: string;
  readonly precision: string;
  /** One name per expert; a dense model has one. */
  readonly experts: readonly string[];
  readonly hasChatTemplate: boolean;
  readonly contextTokens: number;
}

/** A sequence of the running step. */
export interface LiveSequence {
  readonly id: string;
  /** 1 when it decodes, more when it is a chunk of prefill. */
  readonly tokens: number;
  /** Of these tokens: pairs of an expert and how many go to it, ascending by expert. */
  readonly experts: readonly (readonly [expert: number, tokens: number])[];
}

/** Experts under a memory budget. Counts are since the engine began. */
export interface LiveMemory {
  readonly budgetBytes: number;
  readonly usedBytes: number;
  /** The least and the most that a budget can sensibly be. */
  readonly leastBytes: number;
  readonly allBytes: number;
  readonly uses: number;
  readonly hits: number;
  readonly evictions: number;
  readonly bytesRead: number;
  /** For each expert a string of `1` (in memory) and `0`, by layer. */
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
  /** The step that was planned last; absent while nobody runs. */
  readonly step?: { readonly number: number; readonly sequences: readonly LiveSequence[]; readonly more: number };
  /** Sequences that wait for a place. */
  readonly numWaiting: number;
  /** Generated tokens of the last two seconds. */
  readonly tokensPerSecond: number;
  /** The last steps, oldest first. */
  readonly pastSteps: readonly LivePastStep[];
  /** Absent when all experts are in memory. */
  readonly memory?: LiveMemory;
}
