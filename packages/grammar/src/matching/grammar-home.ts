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

/**
 * One grammar in a thread of its own, so that a bad one can be ended without harm to others, and its memory, which the
 * library never gives back, goes with it. The thread keeps the process alive only while it owes an answer.
 */
export class GrammarHome {
  readonly #thread: Worker;
  readonly #limits: HomeLimits;
  readonly #queue: Asked[] = []; // the first is being answered
  readonly #idleListeners: (() => void)[] = [];
  #timer: NodeJS.Timeout | undefined;
  #end: Error | undefined;

  private constructor(data: HomeData, limits: HomeLimits) {
    this.#limits = limits;
    this.#thread = openThread(data);
    this.#thread.on("message", (answer: HomeAnswer) => this.#receive(answer));
    this.#thread.on("error", (error) => this.close(failed(error.message, error)));
    this.#thread.on("exit", () => this.close(failed("its thread ended")));
    this.#thread.unref();
  }

  /**
   * @throws {TypeError} when the grammar cannot be compiled
   * @throws {RangeError} when it takes too long or too much memory
   */
  static async open(data: HomeData, limits: HomeLimits): Promise<GrammarHome> {
    const home = new GrammarHome(data, limits);
    try {
      const answer = await home.#ask(undefined, limits.maxCompileMs);
      if (answer.type !== "failed") return home;
      const message = `The grammar cannot be compiled: ${answer.message}`;
      throw answer.isOutOfMemory ? new RangeError(message) : new TypeError(message);
    } catch (error) {
      home.close(failed("its thread was ended"));
      throw error;
    }
  }

  get isOpen(): boolean {
    return this.#end === undefined;
  }

  get isIdle(): boolean {
    return this.#queue.length === 0;
  }

  /** Resolves when no question is open. */
  whenIdle(): Promise<void> {
    return this.isIdle ? Promise.resolve() : new Promise((resolve) => this.#idleListeners.push(resolve));
  }

  /**
   * @returns bit `id` says whether the token may come next
   * @throws {RangeError} when the tokens do not fit the grammar, or the answer takes too long
   */
  async mask(question: MaskQuestion): Promise<Int32Array> {
    const answer = await this.#ask(question, this.#limits.maxMaskMs);
    if (answer.type === "mask") return answer.mask;
    const message = answer.type === "failed" ? answer.message : "it answered out of order";
    const error = new RangeError(`The answer cannot be matched against its grammar: ${message}`);
    if (answer.type !== "failed" || answer.isFatal) this.close(error);
    throw error;
  }

  /** Those who wait get `error`. */
  close(error: Error): void {
    if (this.#end) return;
    this.#end = error;
    clearTimeout(this.#timer);
    void this.#thread.terminate();
    for (const { reject } of this.#queue.splice(0)) reject(error);
    this.#tellIdle();
  }

  #ask(question: MaskQuestion | undefined, limitMs: number): Promise<HomeAnswer> {
    if (this.#end) return Promise.reject(this.#end);
    return new Promise((resolve, reject) => {
      this.#queue.push({ question, limitMs, resolve, reject });
      if (this.#queue.length === 1) this.#next();
    });
  }

  #next(): void {
    const [asked] = this.#queue;
    if (!asked) {
      this.#thread.unref();
      this.#tellIdle();
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
    clearTimeout(this.#timer);
    this.#queue.shift()?.resolve(answer);
    this.#next();
  }

  #tellIdle(): void {
    for (const listener of this.#idleListeners.splice(0)) listener();
  }
}

function failed(reason: string, cause?: unknown): ReadMeError {
  return new ReadMeError("ERR_GRAMMAR_FAILED", `The thread of a grammar failed: ${reason}`, { cause });
}
