// The engine on the thread that runs the model: takes sequences, runs one step at a time, returns tokens.

import {
  type AllowedTokens,
  coefficientsOf,
  type EngineStats,
  everythingResident,
  type GeneratedToken,
  type PreGatingRouter,
  type ReadMeEvents,
  type Residency,
  type Scheduler,
} from "@readme-moe/core";
import type { CompletionPiece } from "@readme-moe/model";
import {
  type BatchItem,
  draftCounts,
  expertsOf,
  type ForecastUses,
  forwardAgain,
  forwardBatch,
  type ItemLogits,
  StepPlanner,
} from "./batch.ts";
import type { EngineParts } from "./engine-parts.ts";
import { type AcceptedToken, Sampler, type SamplerListeners } from "./sampler.ts";
import { addDrafts, draftUsage, NO_DRAFTS, routeSequences, Sequence, type SequenceStart } from "./sequence.ts";

export class EngineCore {
  readonly #parts: EngineParts;
  readonly #residency: Residency;
  readonly #planner: StepPlanner;
  readonly #sampler: Sampler;
  /** Sequences that have not ended. */
  readonly #live = new Set<Sequence>();
  readonly #aborted = new Map<string, "abort" | "error">();
  readonly #onEnd: (() => void)[] = []; // called when the next sequence ends
  readonly #onFailed = (sequence: Sequence, error: unknown): void => this.#fail(sequence, error);
  #isStepping = false;
  /** Whether another step could make progress. */
  #canProgress = false;
  #forwardMs = 0;
  #stepMs = 0;
  #steps = 0;
  #totals = { promptTokens: 0, cachedTokens: 0, completionTokens: 0, ...NO_DRAFTS };

  constructor(parts: EngineParts) {
    this.#parts = parts;
    this.#residency = parts.residency ?? everythingResident;
    this.#planner = new StepPlanner(parts.scheduler, parts.limits, this.#residency, parts.cost);
    const { runner, tokenizer, contextTokens, output, speculation, classifier } = parts;
    const ends = { eosTokenIds: runner.model.config.eosTokenIds, contextTokens };
    const onQuestion: SamplerListeners["onQuestion"] = (sequence, id, logits) => {
      const draft = (): Int32Array<ArrayBuffer> => Int32Array.from(speculation?.suggest(sequence) ?? []);
      output.ask(sequence, id, logits ? { logits } : { draft: draft() });
    };
    this.#sampler = new Sampler(tokenizer, ends, { onQuestion, onFailed: this.#onFailed }, classifier);
  }

  /** Whether a step could make progress. False while all callers are asked, until `add`, `answer` or `abort`. */
  get hasWork(): boolean {
    return this.#live.size > 0 && this.#canProgress;
  }

  /** Replaces the scheduler, from the next step on. */
  set scheduler(scheduler: Scheduler) {
    this.#planner.scheduler = scheduler;
  }

  /** Adds a sequence; `router` chooses its experts. */
  add(start: SequenceStart, router: PreGatingRouter): Sequence {
    const { tokenizer, speculation } = this.#parts;
    const sequence = new Sequence({ ...start, isSpeculated: speculation !== undefined }, tokenizer, router);
    this.#live.add(sequence);
    this.#totals.promptTokens += sequence.promptTokens;
    this.#canProgress = true;
    return sequence;
  }

  /** Takes a caller's answer: a row of logits, `[vocabSize]`, which the next step samples from, or allowed tokens. */
  answer(questionId: number, answer: Float32Array | AllowedTokens): void {
    this.#sampler.answer(questionId, answer);
    this.#canProgress = true;
  }

  /** Ends a request's sequences and frees their memory for the next step. */
  abort(requestId: string, reason: "abort" | "error" = "abort"): void {
    this.#aborted.set(requestId, reason);
    // A running step needs its sequences until it ends.
    if (!this.#isStepping) this.#endAborted();
  }

  /** Runs one step of all sequences that can run. A sequence that fails is reported and ends; the others continue. */
  async step(): Promise<void> {
    this.#isStepping = true;
    this.#canProgress = false;
    await this.#readSaved();
    const startMs = this.#parts.now();
    this.#forwardMs = 0;
    await this.#append(this.#sampler.sampleAnswers());
    await this.#routeArrivals();
    const batch = await this.#schedule();
    const logits = await this.#forward(batch);
    const accepted = await this.#sample(logits);
    const acceptedDraftTokens = this.#parts.speculation?.settle(logits);
    await this.#append(accepted);
    this.#complete(batch, startMs, acceptedDraftTokens);
    this.#isStepping = false;
    this.#endAborted();
  }

  /** Resolves when no sequence fulfils a condition. Sequences that are added meanwhile count. */
  async whenNone(condition: (sequence: Sequence) => boolean): Promise<void> {
    while (Array.from(this.#live).some(condition)) {
      await new Promise<void>((resolve) => this.#onEnd.push(resolve));
    }
  }

  /** Drops what is kept of an expert that no sequence uses. */
  forgetExpert(expert: number): void {
    this.#parts.admission.forgetExpert(expert);
  }

  stats(): Omit<EngineStats, "residentBytes"> {
    const { admission, saved } = this.#parts;
    const { streamed, missingBytes } = this.#residency;
    return {
      numWaiting: admission.waiting.length,
      numRunning: admission.running.size,
      kvUsedTokens: admission.kv.usedTokens,
      kvCapacityTokens: admission.kv.capacityTokens,
      steps: this.#steps,
      ...addDrafts(this.#totals, this.#live),
      ...(saved && { diskTokens: saved.readTokens }),
      preemptions: admission.preemptions,
      cost: coefficientsOf(this.#planner.cost),
      ...(streamed && { expertCache: streamed.stats }),
      ...(missingBytes.length > 0 && { missingBytes: Array.from(missingBytes) }),
    };
  }

  /** Checks the accounting. @throws {Error} with the numbers that do not agree */
  checkIntegrity(): void {
    const { admission } = this.#parts;
    admission.checkIntegrity();
    for (const sequence of [...admission.running.values(), ...admission.waiting]) {
      if (!this.#live.has(sequence)) throw new Error(`The sequence ${sequence.id} has ended and still holds a place`);
    }
  }

  /**
   * Routes the prompts of new sequences, up to one call's tokens per router, and queues the sequences that are done.
   */
  async #routeArrivals(): Promise<void> {
    const { admission, output, saved } = this.#parts;
    const arrivals = Array.from(this.#live).filter(({ isArriving }) => isArriving);
    await this.#route(arrivals, true);
    for (const sequence of arrivals) {
      if (!this.#live.has(sequence)) continue;
      if (sequence.isArriving) {
        this.#canProgress = true;
        continue;
      }
      const { id: sequenceId, promptTokens, ended } = sequence;
      if (saved && !ended) sequence.files = await saved.namesOf(sequence);
      if (!ended) admission.enqueue(sequence);
      output.accepted(sequence);
      if (!ended) this.#sampler.ask(sequence);
      output.event("sequence:queued", { sequenceId, promptTokens, numWaiting: admission.waiting.length });
      if (ended) this.#finish(sequence, ended);
    }
  }

  /** Reads chunks of admitted prompts from disk. Where others run, it takes a quarter of their steps' time. */
  async #readSaved(): Promise<void> {
    const { saved, admission } = this.#parts;
    if (!saved?.numReading) return;
    await saved.read(saved.numReading < admission.running.size ? this.#stepMs / 4 : READ_ALONE_MS);
  }

  /** Publishes the end of a sequence that had ended before it came here. */
  #finish(sequence: Sequence, { finishReason = "stop", stop }: CompletionPiece): void {
    const last = { choice: sequence.choice, text: "", tokens: [], finishReason };
    this.#parts.output.chunk(sequence, stop === undefined ? last : { ...last, stop });
    this.#end(sequence, finishReason);
  }

  /** Admits waiting sequences, selects the batch, reserves its KV memory, and adds drafts. */
  async #schedule(): Promise<readonly BatchItem[]> {
    const { admission, now, output, speculation, saved } = this.#parts;
    admission.admit((sequence) => {
      sequence.waitingSinceMs = now();
      saved?.begin(sequence, this.#planner.cost);
    });
    for (const sequence of admission.followers) output.reading(sequence);
    if (saved?.numReading) this.#canProgress = true;
    const isAway = (one: Sequence): boolean => this.#sampler.isAwaiting(one) || saved?.isReading(one) === true;
    const ready = Array.from(admission.running.values()).filter((sequence) => !isAway(sequence));
    if (ready.length === 0) return [];
    this.#canProgress = true;
    const selected = this.#planner.select(admission.running, ready, now());
    const known = admission.reserve(selected, ({ id: sequenceId, numTokens: tokens }) =>
      output.event("sequence:preempted", { sequenceId, tokens }),
    );
    for (const item of known) this.#begin(item);
    const batch = speculation ? await speculation.extend(known, this.#planner.cost) : known;
    const forecast = this.#planner.begin(batch, admission.waiting);
    output.event("batch:scheduled", scheduledEvent(this.#steps, batch, admission.waiting.length, forecast));
    return batch;
  }

  /** Takes note of the first step of a sequence. */
  #begin({ sequence, isLast }: BatchItem): void {
    if (sequence.startedMs !== undefined) return;
    sequence.startedMs = this.#parts.now();
    this.#totals.cachedTokens += sequence.cachedTokens;
    if (!isLast) this.#parts.output.reading(sequence);
  }

  /** Runs the batch's tokens through the model. A sequence that the runner fails on is reported and ends. */
  #forward(batch: readonly BatchItem[]): Promise<readonly ItemLogits[]> {
    const { runner, admission } = this.#parts;
    return this.#timed(() => forwardBatch(runner, admission.kv, batch, this.#onFailed));
  }

  async #timed(run: () => ReturnType<typeof forwardBatch>): Promise<readonly ItemLogits[]> {
    const { admission, now, output } = this.#parts;
    const startMs = now();
    const { logits, ran, states } = await run();
    this.#forwardMs += now() - startMs;
    if (states.length > 0) this.#parts.speculation?.keep(states);
    for (const item of ran) {
      admission.remember(item);
      if (!item.isLast) output.reading(item.sequence);
    }
    return logits;
  }

  /** Gives sequences in `logits` their next tokens, without those whose caller processes logits. */
  async #sample(logits: readonly ItemLogits[]): Promise<readonly AcceptedToken[]> {
    const { runner, admission } = this.#parts;
    const { accepted, undecided } = this.#sampler.sample(logits);
    if (undecided.length === 0) return accepted;
    const again = await this.#timed(() => forwardAgain(runner, admission.kv, undecided, this.#onFailed));
    return [...accepted, ...this.#sampler.sample(again).accepted];
  }

  /** Routes and publishes tokens that sequences got. */
  async #append(accepted: readonly AcceptedToken[]): Promise<void> {
    const nowMs = this.#parts.now();
    for (const { chunk } of accepted) this.#totals.completionTokens += chunk.tokens.length;
    const sequences = new Set(accepted.map(({ sequence }) => sequence));
    for (const sequence of sequences) sequence.waitingSinceMs = nowMs;
    await this.#route(Array.from(sequences).filter(({ finishReason }) => !finishReason));
    this.#publish(accepted);
  }

  async #route(sequences: readonly Sequence[], isInChunks = false): Promise<void> {
    const { now, output } = this.#parts;
    await routeSequences(sequences, {
      isInChunks,
      now,
      onRouted: ({ id: sequenceId }, position, experts, durationMs) =>
        output.event("router:routed", { sequenceId, position, experts, durationMs }),
      onFailed: this.#onFailed,
    });
  }

  /** Publishes new tokens, and ends the sequences that are finished. */
  #publish(accepted: readonly AcceptedToken[]): void {
    const { now, output } = this.#parts;
    for (const { sequence, position, chunk } of accepted) {
      const [[token], nowMs] = [chunk.tokens, now()];
      if (!this.#live.has(sequence)) continue;
      const expert = chunk.finishReason ? undefined : sequence.experts[position];
      if (token) output.event("token:generated", tokenEvent(sequence, token, position, nowMs));
      sequence.lastTokenMs = nowMs;
      output.chunk(sequence, token && expert !== undefined ? { ...chunk, tokens: [{ ...token, expert }] } : chunk);
      if (chunk.finishReason) this.#end(sequence, chunk.finishReason);
      else if (position === sequence.numTokens - 1) this.#sampler.ask(sequence);
    }
  }

  /** Reports the step, and lets the planner learn from it. */
  #complete(batch: readonly BatchItem[], startMs: number, acceptedDraftTokens: number | undefined): void {
    const { admission, now, output, speculation } = this.#parts;
    if (batch.length === 0) return;
    const completed = { step: this.#steps++, ...this.#planner.complete(startMs, now()) };
    this.#stepMs = completed.durationMs;
    speculation?.complete(batch, completed.durationMs);
    output.event("batch:completed", {
      ...completed,
      forwardMs: this.#forwardMs,
      kvUsedTokens: admission.kv.usedTokens,
      kvCapacityTokens: admission.kv.capacityTokens,
      ...(acceptedDraftTokens === undefined ? {} : { acceptedDraftTokens }),
    });
  }

  #endAborted(): void {
    if (this.#aborted.size === 0) return;
    for (const sequence of this.#live) {
      const reason = this.#aborted.get(sequence.requestId);
      if (reason) this.#end(sequence, reason);
    }
    this.#aborted.clear();
  }

  #fail(sequence: Sequence, error: unknown): void {
    this.#end(sequence, "error");
    this.#parts.output.failed(sequence, error);
  }

  #end(sequence: Sequence, reason: "stop" | "length" | "abort" | "error"): void {
    const { admission, now, output } = this.#parts;
    if (!this.#live.delete(sequence)) return;
    this.#sampler.forget(sequence);
    this.#parts.speculation?.forget(sequence);
    this.#totals = addDrafts(this.#totals, [sequence]);
    // Waiting sequences may get the freed memory.
    this.#canProgress = true;
    sequence.router.release(sequence.routerState);
    if (reason !== "error") admission.rememberEnd(sequence);
    admission.remove(sequence);
    for (const resolve of this.#onEnd.splice(0)) resolve();
    output.event("sequence:finished", finishedEvent(sequence, reason, now()));
  }
}

/** Time between two looks for messages while there is nothing but files to read. */
const READ_ALONE_MS = 20;

type Payload<Name extends keyof ReadMeEvents> = Parameters<ReadMeEvents[Name]>[0];

/** Describes a step before it runs. @param numWaiting - number of sequences that wait for KV memory */
function scheduledEvent(
  step: number,
  batch: readonly BatchItem[],
  numWaiting: number,
  forecast: ForecastUses,
): Payload<"batch:scheduled"> {
  return {
    step,
    sequenceIds: batch.map(({ sequence }) => sequence.id),
    numTokens: batch.map(({ numTokens }) => numTokens),
    positions: batch.map(({ sequence }) => sequence.numComputedTokens),
    ...draftCounts(batch),
    distinctExperts: expertsOf(batch).size,
    numWaiting,
    ...forecast,
  };
}

/** Describes a new token, before it is the sequence's last one. */
function tokenEvent(
  sequence: Sequence,
  { id: tokenId }: GeneratedToken,
  position: number,
  nowMs: number,
): Payload<"token:generated"> {
  const isFirst = position === sequence.promptTokens;
  return { sequenceId: sequence.id, tokenId, position, sinceMs: nowMs - sequence.lastTokenMs, isFirst };
}

type FinishedEvent = Payload<"sequence:finished">;

function finishedEvent(sequence: Sequence, reason: FinishedEvent["reason"], nowMs: number): FinishedEvent {
  return {
    sequenceId: sequence.id,
    reason,
    promptTokens: sequence.promptTokens,
    completionTokens: sequence.completionTokens,
    cachedTokens: sequence.cachedTokens,
    ...draftUsage(sequence.drafts),
    queuedMs: (sequence.startedMs ?? nowMs) - sequence.arrivalMs,
    durationMs: nowMs - sequence.arrivalMs,
  };
}
