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
  /** Kind of the experts: loras, which the API lists as models, or parts of the layers. */
  readonly expertKind: "lora" | "ffn";
  readonly hasRouter: boolean;
  readonly hasChatTemplate: boolean;
  readonly contextTokens: number;
}

/** A piece of the server's documents that an answer was made from. */
export interface Source {
  readonly file: string;
  /** Headings above it. */
  readonly title: string;
  /** Nearness to the question: a cosine. */
  readonly score: number;
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

/** A worker of a fleet. */
interface LiveMachine {
  readonly id: string;
  /** Version of its model. */
  readonly version: string;
  readonly running: number;
  readonly free: number;
  /** Mean duration of recent steps; 0 before the first. */
  readonly stepMs: number;
  /** Experts that are in memory; absent where all are. */
  readonly experts?: { readonly inMemory: number; readonly all: number };
  readonly isDraining: boolean;
}

/** A fleet of machines behind the server. */
export interface LiveFleet {
  readonly machines: readonly LiveMachine[];
  /** Queues with requests. */
  readonly queues: readonly { readonly key: string; readonly waiting: number; readonly running: number }[];
}

export interface LiveSnapshot {
  /** Absent where other machines run the model. */
  readonly scheduler?: SchedulerName;
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
  /** Present where other machines run the model. */
  readonly fleet?: LiveFleet;
}
