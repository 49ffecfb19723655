// The state of the live view, collected from the engine's events. Finished sequences are forgotten.

import type { ReadMeEmitter, ReadMeEvents } from "@readme-moe/core";
import type { LivePastStep, LiveSequence, LiveSnapshot } from "../shared/live.ts";

type Payload<Name extends keyof ReadMeEvents> = Parameters<ReadMeEvents[Name]>[0];

const MAX_SEQUENCES = 24;
const MAX_PAST_STEPS = 48;
const RATE_WINDOW_MS = 2000;

/** The part of a snapshot from events; the rest are the engine's settings and counters. */
export type ObservedState = Pick<LiveSnapshot, "step" | "numWaiting" | "tokensPerSecond" | "pastSteps"> & {
  /** `1` for each layer in memory, else `0`; `[numExperts][numLayers]`. */
  readonly resident: readonly string[];
};

export class LiveState {
  readonly #numExperts: number;
  readonly #numLayers: number;
  readonly #now: () => number;
  readonly #routes = new Map<string, number[]>();
  #resident: Uint8Array;
  #step: LiveSnapshot["step"];
  #distinctExperts = 0;
  #numWaiting = 0;
  #pastSteps: LivePastStep[] = [];
  /** Times of the last tokens, oldest first. */
  #tokenTimes: number[] = [];

  /** @param numLayers - 0 when all experts are always in memory */
  constructor(numExperts: number, numLayers: number, now: () => number = () => performance.now()) {
    this.#numExperts = numExperts;
    this.#numLayers = numLayers;
    this.#now = now;
    this.#resident = new Uint8Array(numExperts * numLayers);
  }

  /** @param onChange - called after each event that changed something */
  listen(events: ReadMeEmitter, onChange: () => void): void {
    const on = <Name extends keyof ReadMeEvents>(name: Name, take: (event: Payload<Name>) => void): void => {
      const listener = (event: Payload<Name>): void => {
        take(event);
        onChange();
      };
      events.on(name, listener);
    };
    on("sequence:queued", ({ sequenceId, numWaiting }) => {
      this.#routeOf(sequenceId);
      this.#numWaiting = numWaiting;
    });
    on("router:routed", (event) => this.#routed(event));
    on("batch:scheduled", (event) => this.#scheduled(event));
    on("batch:completed", (event) => this.#completed(event));
    on("token:generated", () => this.#tokenTimes.push(this.#now()));
    on("sequence:finished", ({ sequenceId }) => this.#finished(sequenceId));
    on("expert:loaded", (event) => this.#setResident(event, 1));
    on("expert:evicted", (event) => this.#setResident(event, 0));
    on("engine:failed", () => this.#forget());
  }

  observed(): ObservedState {
    const since = this.#now() - RATE_WINDOW_MS;
    const first = this.#tokenTimes.findIndex((time) => time >= since);
    this.#tokenTimes = first < 0 ? [] : this.#tokenTimes.slice(first);
    return {
      ...(this.#step ? { step: this.#step } : {}),
      numWaiting: this.#numWaiting,
      tokensPerSecond: (this.#tokenTimes.length * 1000) / RATE_WINDOW_MS,
      pastSteps: this.#pastSteps,
      resident: Array.from({ length: this.#numExperts }, (_, expert) =>
        this.#resident.subarray(expert * this.#numLayers, (expert + 1) * this.#numLayers).join(""),
      ),
    };
  }

  /** Whether sequences run, or ran in the last seconds. */
  get isBusy(): boolean {
    return this.#step !== undefined || this.#tokenTimes.length > 0;
  }

  #routed({ sequenceId, position, experts }: Payload<"router:routed">): void {
    const route = this.#routeOf(sequenceId);
    for (const [index, expert] of experts.entries()) route[position + index] = expert;
  }

  /** Finds the experts of a sequence. Those of a prompt are known before the sequence is queued. */
  #routeOf(sequenceId: string): number[] {
    const route = this.#routes.get(sequenceId) ?? [];
    this.#routes.set(sequenceId, route);
    return route;
  }

  #scheduled(event: Payload<"batch:scheduled">): void {
    const sequences = event.sequenceIds.slice(0, MAX_SEQUENCES).map((id, index): LiveSequence => {
      const [start, tokens] = [event.positions[index] ?? 0, event.numTokens[index] ?? 0];
      return { id, tokens, experts: countExperts(this.#routes.get(id)?.slice(start, start + tokens) ?? []) };
    });
    this.#step = { number: event.step, sequences, more: event.sequenceIds.length - sequences.length };
    this.#distinctExperts = event.distinctExperts;
    this.#numWaiting = event.numWaiting;
  }

  #completed({ tokens, durationMs }: Payload<"batch:completed">): void {
    const step = { tokens, distinctExperts: this.#distinctExperts, durationMs };
    this.#pastSteps = [...this.#pastSteps, step].slice(-MAX_PAST_STEPS);
  }

  #finished(sequenceId: string): void {
    this.#routes.delete(sequenceId);
    if (this.#routes.size > 0) return;
    this.#step = undefined;
    this.#numWaiting = 0;
  }

  #setResident({ layer, expert }: { readonly layer: number; readonly expert: number }, to: 0 | 1): void {
    this.#resident[expert * this.#numLayers + layer] = to;
  }

  /** Forgets all sequences and the experts in memory, after the engine has failed. */
  #forget(): void {
    this.#routes.clear();
    this.#resident = new Uint8Array(this.#resident.length);
    this.#step = undefined;
    this.#numWaiting = 0;
    this.#tokenTimes = [];
  }
}

function countExperts(experts: readonly number[]): LiveSequence["experts"] {
  const counts = new Map<number, number>();
  for (const expert of experts) counts.set(expert, (counts.get(expert) ?? 0) + 1);
  return [...counts].toSorted(([a], [b]) => a - b);
}
