// Counts what an engine's steps did, from its events.

import type { ReadMeEmitter } from "@readme-moe/core";

/** Counts over some steps. */
export interface StepCounts {
  /** Steps of all kinds. */
  readonly steps: number;
  /** Times that a sequence which decodes took part in a step. */
  readonly decodes: number;
  readonly draftTokens: number;
  readonly acceptedDraftTokens: number;
  /** Distinct experts, summed over steps. */
  readonly experts: number;
  readonly bytesRead: number;
}

const NONE: StepCounts = { steps: 0, decodes: 0, draftTokens: 0, acceptedDraftTokens: 0, experts: 0, bytesRead: 0 };

/** The used part of `batch:scheduled`. */
export interface ScheduledStep {
  readonly sequenceIds: readonly string[];
  readonly positions: readonly number[];
  readonly distinctExperts: number;
  /** Number of each sequence; absent without drafts. */
  readonly draftTokens?: readonly number[] | undefined;
}

/** The used part of `batch:completed`. */
export interface CompletedStep {
  readonly tokens: number;
  readonly acceptedDraftTokens?: number | undefined;
}

/** Counts events of one engine. */
export class StepMeter {
  #counts = NONE;
  readonly #promptTokens = new Map<string, number>();

  /** Starts to listen. */
  constructor(events: ReadMeEmitter) {
    events.on("sequence:queued", ({ sequenceId, promptTokens }) => this.queued(sequenceId, promptTokens));
    events.on("sequence:finished", ({ sequenceId }) => this.#promptTokens.delete(sequenceId));
    events.on("batch:scheduled", (step: ScheduledStep) => this.scheduled(step));
    events.on("batch:completed", (step: CompletedStep) => this.completed(step));
    events.on("expert:loaded", ({ bytes }) => this.#add({ bytesRead: bytes }));
  }

  /** Returns the counts so far, and starts again at 0. */
  take(): StepCounts {
    const counts = this.#counts;
    this.#counts = NONE;
    return counts;
  }

  queued(sequenceId: string, promptTokens: number): void {
    this.#promptTokens.set(sequenceId, promptTokens);
  }

  scheduled({ sequenceIds, positions, distinctExperts, draftTokens = [] }: ScheduledStep): void {
    // The token at the end of the prompt gives the first new one; a sequence decodes beyond its prompt.
    const decodes = sequenceIds.filter(
      (id, index) => (positions[index] ?? 0) >= (this.#promptTokens.get(id) ?? Infinity),
    );
    this.#add({
      steps: 1,
      decodes: decodes.length,
      experts: distinctExperts,
      draftTokens: draftTokens.reduce((sum, count) => sum + count, 0),
    });
  }

  completed({ acceptedDraftTokens = 0 }: CompletedStep): void {
    this.#add({ acceptedDraftTokens });
  }

  #add(more: Partial<StepCounts>): void {
    this.#counts = sumOfCounts([this.#counts, { ...NONE, ...more }]);
  }
}

export function sumOfCounts(all: readonly StepCounts[]): StepCounts {
  const sum = (name: keyof StepCounts): number => all.reduce((total, counts) => total + counts[name], 0);
  return {
    steps: sum("steps"),
    decodes: sum("decodes"),
    draftTokens: sum("draftTokens"),
    acceptedDraftTokens: sum("acceptedDraftTokens"),
    experts: sum("experts"),
    bytesRead: sum("bytesRead"),
  };
}
