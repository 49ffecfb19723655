// The engine on the thread that runs the model: sequences in, one step at a time, tokens out.

import {
  everythingResident,
  type EngineStats,
  type GenerateChunk,
  type PreGatingRouter,
  type Residency,
  type Scheduler,
} from "@readme-moe/core";
import { acceptToken } from "./accept-token.ts";
import { expertsOf, type BatchItem } from "./batch.ts";
import type { EngineParts } from "./engine-parts.ts";
import { forwardBatch, withAllLogits, type BatchRequest, type ItemLogits } from "./forward-batch.ts";
import { rewind } from "./rewind.ts";
import { routeSequences } from "./route-sequences.ts";
import { RowSampler, type Chosen } from "./row-sampler.ts";
import { Sequence, type SequenceStart } from "./sequence.ts";
import { StepPlanner } from "./step-planner.ts";

/** A token that is part of its sequence now. */
interface Accepted {
  readonly sequence: Sequence;
  readonly chunk: GenerateChunk;
}

export class EngineCore {
  readonly #parts: EngineParts;
  readonly #routers = new Map<Sequence, PreGatingRouter>();
  readonly #residency: Residency;
  readonly #planner: StepPlanner;
  readonly #sampler: RowSampler;
  readonly #aborted = new Map<string, "abort" | "error">();
  #isStepping = false;
  /** Whether the next step has something to go on with. */
  #hasNews = false;
  #forwardMs = 0;
  #steps = 0;
  #totals = { promptTokens: 0, cachedTokens: 0, completionTokens: 0 };

  constructor(parts: EngineParts) {
    this.#parts = parts;
    this.#residency = parts.residency ?? everythingResident;
    this.#planner = new StepPlanner(parts.scheduler, parts.limits, this.#residency, parts.cost);
    this.#sampler = new RowSampler(parts.tokenizer, {
      onAsked: (sequence, rowId, logits) => parts.output.logits(sequence, rowId, logits),
      onFailed: (sequence, error) => this.#fail(sequence, error),
    });
  }

  /** Whether a step is of use. While all logits are with callers it is not, before `add`, `answer` or `abort`. */
  get hasWork(): boolean {
    return this.#routers.size > 0 && this.#hasNews;
  }

  /** From the next step on. */
  set scheduler(scheduler: Scheduler) {
    this.#planner.scheduler = scheduler;
  }

  /** Takes a sequence in; `router` chooses its experts. */
  add(start: SequenceStart, router: PreGatingRouter): Sequence {
    const sequence = new Sequence(start, this.#parts.tokenizer, router.start());
    this.#routers.set(sequence, router);
    this.#totals.promptTokens += sequence.promptTokens;
    this.#hasNews = true;
    return sequence;
  }

  /** What a caller made of its sequence's logits, `[vocabSize]`; the next step goes on with it. */
  answer(rowId: number, logits: Float32Array): void {
    this.#sampler.answer(rowId, logits);
    this.#hasNews = true;
  }

  /** Ends a request's sequences; their memory is free for the next step. */
  abort(requestId: string, reason: "abort" | "error" = "abort"): void {
    this.#aborted.set(requestId, reason);
    // A step that is under way counts on its sequences until it ends.
    if (!this.#isStepping) this.#leaveAborted();
  }

  /** One step of everybody who can run. Sequences that fail are told and leave; the others go on. */
  async step(): Promise<void> {
    this.#isStepping = true;
    this.#hasNews = false;
    const startMs = this.#parts.now();
    this.#forwardMs = 0;
    await this.#append(this.#sampler.sampleAnswers());
    await this.#routeArrivals();
    const batch = this.#schedule();
    const logits = await this.#forward(batch);
    await this.#append(await this.#sample(logits));
    this.#complete(batch, startMs);
    this.#isStepping = false;
    this.#leaveAborted();
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

  /** @throws {Error} with the numbers, when the books are wrong */
  checkIntegrity(): void {
    const { running, waiting } = this.#parts.admission;
    this.#parts.admission.checkIntegrity();
    const known = new Set([...running.values(), ...waiting]);
    for (const sequence of known) {
      if (!this.#routers.has(sequence)) throw new Error(`The sequence ${sequence.id} has left and still holds a place`);
    }
  }

  /** Routes the prompts that came since the last step, as many tokens as their routers take in a call, and queues those that are through. */
  async #routeArrivals(): Promise<void> {
    const { admission, output } = this.#parts;
    const arrivals = Array.from(this.#routers.keys()).filter(isArriving);
    await this.#route(arrivals, true);
    for (const sequence of arrivals) {
      if (!this.#routers.has(sequence)) continue;
      if (isArriving(sequence)) {
        this.#hasNews = true;
        continue;
      }
      admission.enqueue(sequence);
      output.accepted(sequence);
      const { id: sequenceId, promptTokens } = sequence;
      output.event("sequence:queued", { sequenceId, promptTokens, numWaiting: admission.waiting.length });
    }
  }

  /** Which sequences run now, with how many tokens; their KV memory is reserved when this returns. */
  #schedule(): readonly BatchItem[] {
    const { admission, now, output } = this.#parts;
    admission.admit((sequence) => {
      if (sequence.startedMs === undefined) this.#totals.cachedTokens += sequence.cachedTokens;
      sequence.waitingSinceMs = now();
      sequence.startedMs ??= sequence.waitingSinceMs;
    });
    const sequences = Array.from(admission.running.values()).filter((sequence) => !this.#sampler.isAway(sequence));
    if (sequences.length === 0) return [];
    this.#hasNews = true;
    const scheduled = this.#planner.plan(admission.running, sequences, now());
    const batch = admission.reserve(scheduled, ({ id: sequenceId, numTokens: tokens }) =>
      output.event("sequence:preempted", { sequenceId, tokens }),
    );
    const told = this.#planner.begin(batch, admission.waiting);
    output.event("batch:scheduled", {
      step: this.#steps,
      sequenceIds: batch.map(({ sequence }) => sequence.id),
      numTokens: batch.map(({ numTokens }) => numTokens),
      positions: batch.map(({ sequence }) => sequence.numComputedTokens),
      distinctExperts: expertsOf(batch).size,
      numWaiting: admission.waiting.length,
      ...told,
    });
    return batch;
  }

  /** Runs the batch's tokens. Sequences that the runtime fails on are told and leave. */
  async #forward(batch: readonly BatchRequest[]): Promise<readonly ItemLogits[]> {
    const { runner, admission, now } = this.#parts;
    const startMs = now();
    const { logits, ran } = await forwardBatch(runner, admission.kv, batch, ({ sequence }, error) =>
      this.#fail(sequence, error),
    );
    this.#forwardMs += now() - startMs;
    for (const item of ran) admission.remember(item);
    return logits;
  }

  /** The next token of each sequence whose known tokens have all run, and whose logits do not go to its caller. */
  async #sample(logits: readonly ItemLogits[]): Promise<readonly Chosen[]> {
    const { chosen, undecided } = this.#sampler.sample(logits);
    if (undecided.length === 0) return chosen;
    // The best candidates did not decide: all logits do, which the runner has kept, or gives when the same tokens run again.
    const kept = withAllLogits(logits.filter(({ item }) => undecided.includes(item)));
    if (kept) return [...chosen, ...this.#sampler.sample(kept).chosen];
    const again = undecided.map((item) => {
      const { sequence, numTokens } = item;
      const { kv } = this.#parts.admission;
      if (sequence.slot) rewind(kv, sequence.slot, sequence.numComputedTokens - numTokens);
      return { ...item, wantsFullLogits: true };
    });
    return [...chosen, ...this.#sampler.sample(await this.#forward(again)).chosen];
  }

  /** Makes chosen tokens part of their sequences, routes them, and shows them. */
  async #append(chosen: readonly Chosen[]): Promise<void> {
    const accepted = this.#accept(chosen);
    await this.#route(accepted.filter(({ chunk }) => !chunk.finishReason).map(({ sequence }) => sequence));
    this.#publish(accepted);
  }

  #accept(chosen: readonly Chosen[]): readonly Accepted[] {
    const { runner, maxTokens, now } = this.#parts;
    const { eosTokenIds } = runner.model.config;
    return chosen.map(({ sequence, token }) => {
      this.#totals.completionTokens++;
      sequence.waitingSinceMs = now();
      return { sequence, chunk: acceptToken(sequence, token, { eosTokenIds, maxTokens }) };
    });
  }

  async #route(sequences: readonly Sequence[], isInChunks = false): Promise<void> {
    const { now, output } = this.#parts;
    await routeSequences(sequences, this.#routers, {
      isInChunks,
      now,
      onRouted: ({ id: sequenceId }, position, experts, durationMs) =>
        output.event("router:routed", { sequenceId, position, experts, durationMs }),
      onFailed: (sequence, error) => this.#fail(sequence, error),
    });
  }

  /** Shows new tokens, and lets those who are finished leave. */
  #publish(accepted: readonly Accepted[]): void {
    const { now, output } = this.#parts;
    for (const { sequence, chunk } of accepted) {
      const [token] = chunk.tokens;
      if (!token || !this.#routers.has(sequence)) continue;
      const nowMs = now();
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
      if (chunk.finishReason) this.#leave(sequence, chunk.finishReason);
    }
  }

  /** Tells what the step was. */
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

  #leaveAborted(): void {
    if (this.#aborted.size === 0) return;
    for (const sequence of this.#routers.keys()) {
      const reason = this.#aborted.get(sequence.requestId);
      if (reason) this.#leave(sequence, reason);
    }
    this.#aborted.clear();
  }

  #fail(sequence: Sequence, error: unknown): void {
    this.#leave(sequence, "error");
    this.#parts.output.failed(sequence, error);
  }

  #leave(sequence: Sequence, reason: "stop" | "length" | "abort" | "error"): void {
    const { admission, now, output } = this.#parts;
    const router = this.#routers.get(sequence);
    if (!router) return;
    this.#routers.delete(sequence);
    this.#sampler.forget(sequence);
    // Others may have the memory.
    this.#hasNews = true;
    router.release(sequence.routerState);
    admission.remove(sequence);
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

/** Whether some of a prompt is not routed yet. */
function isArriving({ experts, promptTokens }: Sequence): boolean {
  return experts.length < promptTokens;
}
