import type { Worker } from "node:worker_threads";
import { ReadMeError } from "@readme-moe/core";
import { openThread } from "./open-thread.ts";
import type { HomeAnswer, HomeData, MaskQuestion } from "./protocol.ts";

export interface HomeLimits {
  readonly maxCompileMs: number;
  readonly maxMaskMs: number;
}

interface Asked {
  readonly question: MaskQuestion | undefined;
  readonly limitMs: number;
  readonly resolve: (answer: HomeAnswer) => void;
  readonly reject: (error: Error) => void;
}

/** The grammar was ended for another one, and can be compiled again. */
export class MadeRoom extends Error {
  override readonly name = "MadeRoom";
}

/**
 * One grammar in a thread of its own, so that a bad one can be ended without harm to others, and its memory, which the
 * library never gives back, goes with it. The thread keeps the process alive only while it owes an answer.
 */
export class GrammarHome {
  /**
   * Rejects with `TypeError` when the grammar cannot be compiled, `RangeError` when it takes too long or too much
   * memory, and with what `close` was called with.
   */
  readonly compiled: Promise<void>;
  /** Resolves when the thread and its memory are gone. */
  readonly ended: Promise<void>;
  readonly #thread: Worker;
  readonly #limits: HomeLimits;
  readonly #queue: Asked[] = []; // the first is being answered
  readonly #onIdle: () => void;
  #timer: NodeJS.Timeout | undefined;
  #isRetired = false;
  #end: Error | undefined;

  /** @param onIdle - called when no question is open any more */
  constructor(data: HomeData, limits: HomeLimits, onIdle: () => void) {
    this.#limits = limits;
    this.#onIdle = onIdle;
    this.#thread = openThread(data);
    this.#thread.on("message", (answer: HomeAnswer) => this.#receive(answer));
    this.#thread.on("error", (error) => this.close(failed(error.message, error)));
    this.ended = new Promise((resolve) => {
      this.#thread.on("exit", () => {
        this.close(failed("its thread ended"));
        resolve();
      });
    });
    this.#thread.unref();
    this.compiled = this.#compile();
  }

  get isOpen(): boolean {
    return this.#end === undefined && !this.#isRetired;
  }

  get isIdle(): boolean {
    return this.#queue.length === 0;
  }

  /**
   * @returns bit `id` says whether the token may come next
   * @throws {RangeError} when the tokens do not fit the grammar, or the answer takes too long
   * @throws {MadeRoom} when the grammar was ended for another one
   */
  async mask(question: MaskQuestion): Promise<Int32Array> {
    const answer = await this.#ask(question, this.#limits.maxMaskMs);
    if (answer.type === "mask") return answer.mask;
    const message = answer.type === "failed" ? answer.message : "it answered out of order";
    const error = new RangeError(`The answer cannot be matched against its grammar: ${message}`);
    if (answer.type !== "failed" || answer.isFatal) this.close(error);
    throw error;
  }

  /** Ends the thread at once; those who wait get `error`. */
  close(error: Error): void {
    if (this.#end) return;
    this.#end = error;
    clearTimeout(this.#timer);
    void this.#thread.terminate();
    for (const { reject } of this.#queue.splice(0)) reject(error);
  }

  /** Ends after the question that is being answered; those behind it get `MadeRoom`. */
  retire(): void {
    if (this.isIdle) return this.close(new MadeRoom());
    this.#isRetired = true;
    for (const { reject } of this.#queue.splice(1)) reject(new MadeRoom());
  }

  async #compile(): Promise<void> {
    const answer = await this.#ask(undefined, this.#limits.maxCompileMs);
    if (answer.type !== "failed") return;
    const message = `The grammar cannot be compiled: ${answer.message}`;
    const error = answer.isOutOfMemory ? new RangeError(message) : new TypeError(message);
    this.close(error);
    throw error;
  }

  #ask(question: MaskQuestion | undefined, limitMs: number): Promise<HomeAnswer> {
    if (this.#end) return Promise.reject(this.#end);
    if (this.#isRetired) return Promise.reject(new MadeRoom());
    return new Promise((resolve, reject) => {
      this.#queue.push({ question, limitMs, resolve, reject });
      if (this.#queue.length === 1) this.#next();
    });
  }

  #next(): void {
    const [asked] = this.#queue;
    if (!asked) {
      this.#thread.unref();
      if (this.#isRetired) this.close(new MadeRoom());
      else this.#onIdle();
      return;
    }
    this.#thread.ref();
    this.#timer = setTimeout(() => {
      const what = asked.question ? "match a token" : "compile";
      this.close(new RangeError(`Expected the grammar to ${what} within ${asked.limitMs} ms; simplify it`));
    }, asked.limitMs);
    if (asked.question) this.#thread.postMessage(asked.question, []);
  }

  #receive(answer: HomeAnswer): void {
    // What a thread said before it was ended may come after.
    if (this.#end) return;
    clearTimeout(this.#timer);
    this.#queue.shift()?.resolve(answer);
    this.#next();
  }
}

function failed(reason: string, cause?: unknown): ReadMeError {
  return new ReadMeError("ERR_GRAMMAR_FAILED", `The thread of a grammar failed: ${reason}`, { cause });
}
