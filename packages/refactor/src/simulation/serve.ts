// The server of a simulation: sequences arrive, wait for memory, are scheduled, and leave. What a step does is the
// caller's.

import {
  integerOption,
  type CostModel,
  type ScheduledSequence,
  type Scheduler,
  type SchedulerLimits,
  type SchedulerState,
  type TraceSequence,
  type SchedulableSequence,
  type ExpertCache,
  unitBytes,
  type ExpertLayout,
  type ExpertUnit,
  type StepUses,
  type UseEstimates,
  type UseForecast,
  predictStepMs,
  type StepWork,
} from "@readme-moe/core";

/** Options of a simulated server. */
export interface ServerOptions {
  readonly scheduler: Scheduler;
  readonly limits: SchedulerLimits;
  /** Largest number of sequences that hold KV memory; the others wait in order of arrival. @default 32 */
  readonly maxNumSeqs?: number | undefined;
}

/** Questions and reports of a simulated server while it runs. */
interface ServerHooks {
  readonly cost: CostModel;
  /** Returns the time, which `run` advances. */
  nowMs(): number;
  /** Returns the bytes of each expert that are not in memory. */
  missingBytes(): ArrayLike<number>;
  /** Changes a step that was scheduled. @default no change */
  readonly adjust?: (scheduled: readonly ScheduledSequence[], state: SchedulerState) => readonly ScheduledSequence[];
  run(step: ServedStep): void;
}

/** A step of a simulated server. */
export interface ServedStep {
  readonly step: number;
  /** Its sequences, in their order of arrival, before they advance. */
  readonly batch: readonly SimulatedSequence[];
  /** Number of tokens of each sequence, by id. */
  readonly numTokens: ReadonlyMap<string, number>;
  /** State that it was scheduled from. */
  readonly state: SchedulerState;
  /** Sequences that wait for KV memory, in order. */
  readonly waiting: readonly SimulatedSequence[];
}

/** Latencies of sequences in ms, in the order in which they ended. */
export interface ServedLatencies {
  /** Times from arrival to the last token. */
  readonly latencies: readonly number[];
  /** Same times, divided by output tokens. */
  readonly normalized: readonly number[];
}

/**
 * Serves sequences to their end. A sequence arrives at the beginning of its step.
 *
 * @param sequences - in order of arrival
 * @throws {RangeError} if the scheduler breaks its contract
 */
export function serve(
  sequences: readonly TraceSequence[],
  { scheduler, limits, maxNumSeqs = 32 }: ServerOptions,
  hooks: ServerHooks,
): ServedLatencies {
  integerOption("maxNumSeqs", maxNumSeqs, 1);
  const { cost, adjust } = hooks;
  const arrivals = Array.from(sequences.entries());
  const waiting: SimulatedSequence[] = [];
  const running = new Map<string, SimulatedSequence>();
  const latencies: number[] = [];
  const normalized: number[] = [];

  for (let step = 0; arrivals.length + waiting.length + running.size > 0; step++) {
    if (waiting.length + running.size === 0) step = Math.max(step, arrivals[0]?.[1].arrivalStep ?? 0);
    const firstLater = arrivals.findIndex(([, { arrivalStep }]) => arrivalStep > step);
    for (const [place, sequence] of arrivals.splice(0, firstLater < 0 ? arrivals.length : firstLater)) {
      waiting.push(new SimulatedSequence(sequence, { arrival: place, arrivalMs: hooks.nowMs() }));
    }
    for (const sequence of waiting.splice(0, maxNumSeqs - running.size)) {
      sequence.waitingSinceMs = hooks.nowMs();
      running.set(sequence.id, sequence);
    }
    const held = Array.from(running.values());
    const missingBytes = hooks.missingBytes();
    const state: SchedulerState = { sequences: held, nowMs: hooks.nowMs(), limits, cost, missingBytes };
    const chosen = checkScheduled(scheduler(state), state);
    const scheduled = adjust?.(chosen, state) ?? chosen;
    const numTokens = new Map(scheduled.map((one) => [one.id, one.numTokens]));
    hooks.run({ step, batch: held.filter(({ id }) => numTokens.has(id)), numTokens, state, waiting });
    for (const { id } of scheduled) {
      const sequence = running.get(id);
      sequence?.advance(numTokens.get(id) ?? 0, hooks.nowMs());
      if (!sequence?.isFinished) continue;
      running.delete(id);
      latencies.push(hooks.nowMs() - sequence.arrivalMs);
      normalized.push((hooks.nowMs() - sequence.arrivalMs) / sequence.outputTokens);
    }
  }
  return { latencies, normalized };
}

/** Rejects a schedule that would never end the simulation, or that runs tokens that do not exist. */
function checkScheduled(scheduled: readonly ScheduledSequence[], state: SchedulerState): readonly ScheduledSequence[] {
  const left = new Map(state.sequences.map((sequence) => [sequence.id, sequence.nextExperts.length]));
  if (scheduled.length === 0) throw new RangeError("Expected the scheduler to choose at least one sequence, got none");
  for (const { id, numTokens } of scheduled) {
    const most = left.get(id);
    if (most === undefined)
      throw new RangeError(`Expected the scheduler to choose sequences of its state once, got \`${id}\``);
    integerOption(`numTokens of ${id}`, numTokens, 1, most);
    left.delete(id);
  }
  return scheduled;
}

/** Beginning of a simulated sequence. */
interface SequenceStart {
  /** Order of arrival; unique. */
  readonly arrival: number;
  readonly arrivalMs: number;
  /** @default 0 */
  readonly priority?: number | undefined;
  /** Number of tokens that were generated elsewhere. @default 0 */
  readonly numOutputs?: number | undefined;
  /** Number of first tokens whose keys and values are there. @default 0 */
  readonly cachedTokens?: number | undefined;
}

/** A running sequence of a trace. Its tokens become known one by one, as if an engine sampled them. */
export class SimulatedSequence implements SchedulableSequence {
  readonly id: string;
  readonly arrival: number;
  readonly arrivalMs: number;
  readonly priority: number;
  readonly outputTokens: number;
  waitingSinceMs = 0;
  readonly #experts: readonly number[];
  readonly #promptTokens: number;
  #numOutputs: number;
  #numComputedTokens: number;

  constructor({ id, experts, promptTokens }: Omit<TraceSequence, "arrivalStep">, start: SequenceStart) {
    const { arrival, arrivalMs, priority = 0, numOutputs = 0, cachedTokens = 0 } = start;
    this.id = id;
    this.arrival = arrival;
    this.arrivalMs = arrivalMs;
    this.outputTokens = experts.length - promptTokens + 1;
    this.#experts = experts;
    this.#promptTokens = promptTokens;
    this.priority = priority;
    this.#numOutputs = numOutputs;
    this.#numComputedTokens = Math.min(cachedTokens, promptTokens + numOutputs - 1);
  }

  get numTokens(): number {
    return this.#promptTokens + this.#numOutputs;
  }

  get numComputedTokens(): number {
    return this.#numComputedTokens;
  }

  get completionTokens(): number {
    return this.#numOutputs;
  }

  get nextExperts(): readonly number[] {
    return this.#experts.slice(this.#numComputedTokens, this.numTokens);
  }

  get isFinished(): boolean {
    return this.#numOutputs === this.outputTokens;
  }

  /** Counts tokens that have run until `nowMs`; after the last known token there is a new one. */
  advance(numTokens: number, nowMs: number): void {
    this.waitingSinceMs = nowMs;
    this.#numComputedTokens += numTokens;
    if (this.#numComputedTokens === this.numTokens) this.#numOutputs++;
  }
}

/** Mean and percentile of a list of numbers. */
export interface Spread {
  readonly mean: number;
  /** 95th percentile: the smallest number that at least 95 % of the numbers do not exceed (nearest rank). */
  readonly p95: number;
}

/** Summarises numbers. @returns zeros if there are none */
export function spreadOf(values: readonly number[]): Spread {
  return { mean: meanOf(values), p95: percentile(values, 0.95) };
}

/** Returns the smallest number that at least this share of the numbers does not exceed; 0 if there are none. */
export function percentile(values: readonly number[], share: number): number {
  return values.toSorted((a, b) => a - b)[Math.max(0, Math.ceil(share * values.length) - 1)] ?? 0;
}

/** Returns the mean; 0 if there are no numbers. */
export function meanOf(values: readonly number[]): number {
  return values.length === 0 ? 0 : sumOf(values) / values.length;
}

export function sumOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0);
}

// The time of simulated steps: layers run one after the other, and reads use one channel.

interface StepClockOptions {
  readonly cost: CostModel;
  /** Whether layers run while units are read. */
  readonly overlapsReads: boolean;
}

/** State of the channel that reads use, see `UseEstimates`. */
export type ReadChannel = Required<Pick<UseEstimates, "layerReadBytes" | "pendingBytes">>;

export class StepClock {
  readonly #cache: ExpertCache;
  readonly #layout: ExpertLayout;
  readonly #options: StepClockOptions;
  /** Reads in progress, in the order in which they end. */
  readonly #reads: { readonly unit: ExpertUnit; readonly endMs: number }[] = [];
  #nowMs = 0;
  #stallMs = 0;
  #waits = 0;

  constructor(cache: ExpertCache, layout: ExpertLayout, options: StepClockOptions) {
    this.#cache = cache;
    this.#layout = layout;
    this.#options = options;
  }

  get nowMs(): number {
    return this.#nowMs;
  }

  /** Part of `nowMs` in which no layer ran because units were missing. */
  get stallMs(): number {
    return this.#stallMs;
  }

  /** Number of uses whose unit was not read yet when its layer could have run. */
  get waits(): number {
    return this.#waits;
  }

  /** Runs the layers of a step; each takes the same computation time. */
  runStep(
    running: StepUses,
    work: Omit<StepWork, "missingBytes">,
    upcoming: Pick<UseForecast, "planned" | "laterSteps">,
  ): void {
    this.runLayers(running.length, work, (layer) => ({ ...upcoming, layer, running }));
  }

  /**
   * Runs the layers of a step whose uses become known layer by layer.
   * @param usesAt - returns what is known when a layer has been routed
   */
  runLayers(
    numLayers: number,
    work: Omit<StepWork, "missingBytes">,
    usesAt: (layer: number, channel: ReadChannel) => UseForecast,
  ): void {
    const { cost } = this.#options;
    const layerMs = predictStepMs(cost, { ...work, missingBytes: 0 }) / numLayers;
    for (let layer = 0; layer < numLayers; layer++) {
      const pendingMs = Math.max(0, (this.#reads.at(-1)?.endMs ?? 0) - this.#nowMs);
      const layerReadBytes = layerMs / cost.loadMsPerByte;
      const uses = usesAt(layer, { layerReadBytes, pendingBytes: pendingMs / cost.loadMsPerByte });
      this.#awaitLayer(uses);
      this.#nowMs += layerMs;
      this.#cache.ran(layer, uses.running[layer] ?? []);
    }
  }

  /** Plans each layer once, as an engine does, and waits only for the units that the layer runs with. */
  #awaitLayer(uses: UseForecast): void {
    const { evict, load } = this.#cache.enterLayer(uses);
    // The memory of a read in progress is free when the read has ended.
    for (const unit of evict) this.#awaitReads(({ layer, expert }) => layer === unit.layer && expert === unit.expert);
    this.#begin(load);
    // Units of this layer that only the next step needs may still be read.
    const experts = new Set(uses.running[uses.layer]);
    const isOwn = ({ layer, expert }: ExpertUnit): boolean => layer === uses.layer && experts.has(expert);
    this.#waits += this.#reads.filter(({ unit, endMs }) => endMs > this.#nowMs && isOwn(unit)).length;
    this.#awaitReads(this.#options.overlapsReads ? isOwn : () => true);
  }

  #begin(units: readonly ExpertUnit[]): void {
    const { cost } = this.#options;
    for (const unit of units) {
      const startMs = Math.max(this.#nowMs, this.#reads.at(-1)?.endMs ?? 0);
      this.#reads.push({ unit, endMs: startMs + unitBytes(unit, this.#layout) * cost.loadMsPerByte });
    }
  }

  #awaitReads(isWanted: (unit: ExpertUnit) => boolean): void {
    const endMs = this.#reads.findLast(({ unit }) => isWanted(unit))?.endMs ?? this.#nowMs;
    this.#stallMs += Math.max(0, endMs - this.#nowMs);
    this.#nowMs = Math.max(this.#nowMs, endMs);
    while (this.#reads[0] && this.#reads[0].endMs <= this.#nowMs) this.#reads.shift();
  }
}
