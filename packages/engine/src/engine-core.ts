// The engine on the thread that runs the model: takes sequences, runs one step at a time, returns tokens.

import {
  everythingResident,
  type AllowedTokens,
  type EngineStats,
  type GenerateChunk,
  type PreGatingRouter,
  type Residency,
  type Scheduler,
} from "@readme-moe/core";
import { expertsOf, forwardAgain, forwardBatch, withAllLogits, type BatchItem, type ItemLogits } from "./batch.ts";
import type { EngineParts } from "./engine-parts.ts";
import { acceptToken, Sampler, type ChosenToken } from "./sampler.ts";
import { routeSequences, Sequence, type SequenceStart } from "./sequence.ts";
import { StepPlanner } from "./step-planner.ts";

/** A token that is part of its sequence, with the text that may be shown. */
interface AcceptedToken {
  readonly sequence: Sequence;
  readonly chunk: GenerateChunk;
}

export class EngineCore {
  readonly #parts: EngineParts;
  readonly #residency: Residency;
  readonly #planner: StepPlanner;
  readonly #sampler: Sampler;
  /** Sequences that have not ended. */
  readonly #live = new Set<Sequence>();
  readonly #aborted = new Map<string, "abort" | "error">();
  readonly #onEnd: (() => void)[] = []; // called when the next sequence ends
  #isStepping = false;
  /** Whether another step could make progress. */
  #canProgress = false;
  #forwardMs = 0;
  #steps = 0;
  #totals = { promptTokens: 0, cachedTokens: 0, completionTokens: 0 };

  constructor(parts: EngineParts) {
    this.#parts = parts;
    this.#residency = parts.residency ?? everythingResident;
    this.#planner = new StepPlanner(parts.scheduler, parts.limits, this.#residency, parts.cost);
    this.#sampler = new Sampler(parts.tokenizer, parts.output, (sequence, error) => this.#fail(sequence, error));
  }

  /** Whether a step could make progress. False while callers have all logits, until `add`, `answer` or `abort`. */
  get hasWork(): boolean {
    return this.#live.size > 0 && this.#canProgress;
  }

  /** Replaces the scheduler, from the next step on. */
  set scheduler(scheduler: Scheduler) {
    this.#planner.scheduler = scheduler;
  }

  /** Adds a sequence; `router` chooses its experts. */
  add(start: SequenceStart, router: PreGatingRouter): Sequence {
    const sequence = new Sequence(start, this.#parts.tokenizer, router);
    this.#live.add(sequence);
    this.#totals.promptTokens += sequence.promptTokens;
    this.#canProgress = true;
    return sequence;
  }

  /** Takes a row of logits, `[vocabSize]`, that a sequence's caller has processed. The next step samples from it. */
  answer(rowId: number, logits: Float32Array): void {
    this.#sampler.answer(rowId, logits);
    this.#canProgress = true;
  }

  /** Takes a caller's answer about the tokens that are allowed. */
  allow(questionId: number, allowed: AllowedTokens): void {
    this.#sampler.allow(questionId, allowed);
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
    const startMs = this.#parts.now();
    this.#forwardMs = 0;
    await this.#append(this.#sampler.sampleAnswers());
    await this.#routeArrivals();
    const batch = this.#schedule();
    const logits = await this.#forward(batch);
    await this.#append(await this.#sample(logits));
    this.#complete(batch, startMs);
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
    const { admission } = this.#parts;
    return {
      numWaiting: admission.waiting.length,
      numRunning: admission.running.size,
      kvUsedTokens: admission.kv.usedTokens,
      kvCapacityTokens: admission.kv.capacityTokens,
      steps: this.#steps,
      ...this.#totals,
      preemptions: admission.preemptions,
      ...(this.#residency.streamed && { expertCache: this.#residency.streamed.stats }),
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
    const { admission, output } = this.#parts;
    const arrivals = Array.from(this.#live).filter(({ isArriving }) => isArriving);
    await this.#route(arrivals, true);
    for (const sequence of arrivals) {
      if (!this.#live.has(sequence)) continue;
      if (sequence.isArriving) {
        this.#canProgress = true;
        continue;
      }
      admission.enqueue(sequence);
      output.accepted(sequence);
      this.#sampler.ask(sequence);
      const { id: sequenceId, promptTokens } = sequence;
      output.event("sequence:queued", { sequenceId, promptTokens, numWaiting: admission.waiting.length });
    }
  }

  /** Admits waiting sequences, selects the batch, and reserves its KV memory. */
  #schedule(): readonly BatchItem[] {
    const { admission, now, output } = this.#parts;
    admission.admit((sequence) => {
      if (sequence.startedMs === undefined) this.#totals.cachedTokens += sequence.cachedTokens;
      sequence.waitingSinceMs = now();
      sequence.startedMs ??= sequence.waitingSinceMs;
    });
    const ready = Array.from(admission.running.values()).filter((sequence) => !this.#sampler.isAwaiting(sequence));
    if (ready.length === 0) return [];
    this.#canProgress = true;
    const selected = this.#planner.select(admission.running, ready, now());
    const batch = admission.reserve(selected, ({ id: sequenceId, numTokens: tokens }) =>
      output.event("sequence:preempted", { sequenceId, tokens }),
    );
    const forecast = this.#planner.begin(batch, admission.waiting);
    output.event("batch:scheduled", {
      step: this.#steps,
      sequenceIds: batch.map(({ sequence }) => sequence.id),
      numTokens: batch.map(({ numTokens }) => numTokens),
      positions: batch.map(({ sequence }) => sequence.numComputedTokens),
      distinctExperts: expertsOf(batch).size,
      numWaiting: admission.waiting.length,
      ...forecast,
    });
    return batch;
  }

  /** Runs the batch's tokens through the model. A sequence that the runner fails on is reported and ends. */
  async #forward(batch: readonly BatchItem[], run = forwardBatch): Promise<readonly ItemLogits[]> {
    const { runner, admission, now } = this.#parts;
    const startMs = now();
    const { logits, ran } = await run(runner, admission.kv, batch, (sequence, error) => this.#fail(sequence, error));
    this.#forwardMs += now() - startMs;
    for (const item of ran) admission.remember(item);
    return logits;
  }

  /** Chooses the next token of each sequence in `logits` whose caller does not process logits. */
  async #sample(logits: readonly ItemLogits[]): Promise<readonly ChosenToken[]> {
    const { chosen, undecided } = this.#sampler.sample(logits);
    if (undecided.length === 0) return chosen;
    // All logits are needed. The runner has kept them, or the same tokens run again.
    const kept = withAllLogits(logits.filter(({ item }) => undecided.includes(item)));
    const rest = kept ?? (await this.#forward(undecided, forwardAgain));
    return [...chosen, ...this.#sampler.sample(rest).chosen];
  }

  /** Adds chosen tokens to their sequences, routes them, and publishes them. */
  async #append(chosen: readonly ChosenToken[]): Promise<void> {
    const accepted = this.#accept(chosen);
    await this.#route(accepted.filter(({ chunk }) => !chunk.finishReason).map(({ sequence }) => sequence));
    this.#publish(accepted);
  }

  #accept(chosen: readonly ChosenToken[]): readonly AcceptedToken[] {
    const { runner, contextTokens, now } = this.#parts;
    const { eosTokenIds } = runner.model.config;
    return chosen.map((one) => {
      this.#totals.completionTokens++;
      one.sequence.waitingSinceMs = now();
      return { sequence: one.sequence, chunk: acceptToken(one, { eosTokenIds, contextTokens }) };
    });
  }

  async #route(sequences: readonly Sequence[], isInChunks = false): Promise<void> {
    const { now, output } = this.#parts;
    await routeSequences(sequences, {
      isInChunks,
      now,
      onRouted: ({ id: sequenceId }, position, experts, durationMs) =>
        output.event("router:routed", { sequenceId, position, experts, durationMs }),
      onFailed: (sequence, error) => this.#fail(sequence, error),
    });
  }

  /** Publishes new tokens, and ends the sequences that are finished. */
  #publish(accepted: readonly AcceptedToken[]): void {
    const { now, output } = this.#parts;
    for (const { sequence, chunk } of accepted) {
      const [[token], nowMs] = [chunk.tokens, now()];
      if (!token || !this.#live.has(sequence)) continue;
      const expert = sequence.experts[sequence.numTokens - 1];
      output.event("token:generated", {
        sequenceId: sequence.id,
        tokenId: token.id,
        position: sequence.numTokens - 1,
        sinceMs: nowMs - sequence.lastTokenMs,
        isFirst: sequence.completionTokens === 1,
      });
      sequence.lastTokenMs = nowMs;
      output.chunk(sequence, expert === undefined ? chunk : { ...chunk, tokens: [{ ...token, expert }] });
      if (chunk.finishReason) this.#end(sequence, chunk.finishReason);
      else this.#sampler.ask(sequence);
    }
  }

  /** Reports the step, and lets the planner learn from it. */
  #complete(batch: readonly BatchItem[], startMs: number): void {
    const { admission, now, output } = this.#parts;
    if (batch.length === 0) return;
    output.event("batch:completed", {
      step: this.#steps++,
      ...this.#planner.complete(startMs, now()),
      forwardMs: this.#forwardMs,
      kvUsedTokens: admission.kv.usedTokens,
      kvCapacityTokens: admission.kv.capacityTokens,
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
    // Waiting sequences may get the freed memory.
    this.#canProgress = true;
    sequence.router.release(sequence.routerState);
    admission.remove(sequence);
    for (const resolve of this.#onEnd.splice(0)) resolve();
    output.event("sequence:finished", {
      sequenceId: sequence.id,
      reason,
      promptTokens: sequence.promptTokens,
      completionTokens: sequence.completionTokens,
      cachedTokens: sequence.cachedTokens,
      queuedMs: (sequence.startedMs ?? now()) - sequence.arrivalMs,
      durationMs: now() - sequence.arrivalMs,
    });
  }
}
