// The events of a front's requests, as an engine in this process would emit them.

import type { GenerateChunk, ReadMeEmitter } from "@readme-moe/core";

/** Emits the events of one request. */
export class SequenceEvents {
  readonly #events: ReadMeEmitter;
  readonly #requestId: string;
  readonly #numChoices: number;
  readonly #queuedMs: number;
  #promptTokens = 0;
  readonly #choices: { numTokens: number; lastMs: number; isOver: boolean }[];

  constructor(events: ReadMeEmitter, requestId: string, numChoices: number, nowMs: number) {
    this.#events = events;
    this.#requestId = requestId;
    this.#numChoices = numChoices;
    this.#queuedMs = nowMs;
    this.#choices = Array.from({ length: numChoices }, () => ({ numTokens: 0, lastMs: nowMs, isOver: false }));
  }

  queued(promptTokens: number, numWaiting: number): void {
    this.#promptTokens = promptTokens;
    for (let choice = 0; choice < this.#numChoices; choice++) {
      this.#events.emit("sequence:queued", { sequenceId: this.#idOf(choice), promptTokens, numWaiting });
    }
  }

  chunk({ choice, tokens, finishReason }: GenerateChunk, nowMs: number): void {
    const state = this.#choices[choice];
    if (!state) return;
    for (const { id: tokenId } of tokens) {
      const position = this.#promptTokens + state.numTokens;
      const about = { tokenId, position, sinceMs: nowMs - state.lastMs, isFirst: state.numTokens === 0 };
      this.#events.emit("token:generated", { sequenceId: this.#idOf(choice), ...about });
      state.numTokens++;
      state.lastMs = nowMs;
    }
    if (finishReason !== undefined) this.#finish(choice, finishReason, nowMs);
  }

  /** Ends the choices that have not ended. */
  ended(reason: "abort" | "error", nowMs: number): void {
    for (let choice = 0; choice < this.#numChoices; choice++) this.#finish(choice, reason, nowMs);
  }

  #finish(choice: number, reason: "stop" | "length" | "abort" | "error", nowMs: number): void {
    const state = this.#choices[choice];
    if (!state || state.isOver) return;
    state.isOver = true;
    this.#events.emit("sequence:finished", {
      sequenceId: this.#idOf(choice),
      reason,
      promptTokens: this.#promptTokens,
      completionTokens: state.numTokens,
      cachedTokens: 0,
      acceptedDraftTokens: 0,
      rejectedDraftTokens: 0,
      queuedMs: 0,
      durationMs: nowMs - this.#queuedMs,
    });
  }

  #idOf(choice: number): string {
    return this.#numChoices === 1 ? this.#requestId : `${this.#requestId}/${choice}`;
  }
}
