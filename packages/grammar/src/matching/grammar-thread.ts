import { Worker } from "node:worker_threads";
import { ReadMeError } from "@readme-moe/core";
import type { GrammarLimits } from "../grammars-options.ts";
import type { MaskAnswer, MaskQuestion, ThreadAnswer, ThreadData } from "./protocol.ts";

type ThreadLimits = Pick<GrammarLimits, "maxCompileMs" | "maxMaskMs">;

/** Parts in which a limit passes. Time in which the process is suspended, with its threads, counts as one at most. */
const LIMIT_PARTS = 4;

interface Asked {
  readonly question: MaskQuestion | undefined;
  readonly limitMs: number;
  readonly resolve: (answer: ThreadAnswer) => void;
  readonly reject: (error: Error) => void;
}

/** The grammar was evicted for another one, and can be compiled again. */
export class Evicted extends Error {
  override readonly name = "Evicted";
}

/**
 * One grammar in a thread of its own. A bad grammar can be ended without harm to others, and its memory, which the
 * library never frees, ends with the thread. The thread keeps the process alive only while a question is open.
 */
export class GrammarThread {
  /**
   * Settles when compiling ends. Rejects with `TypeError` when the grammar cannot be compiled, with `RangeError`
   * when it takes too much time or memory, and with the error of `close`.
   */
  readonly compiled: Promise<void>;
  /** Resolves when the thread and its memory are gone. */
  readonly ended: Promise<void>;
  readonly #thread: Worker;
  readonly #limits: ThreadLimits;
  readonly #queue: Asked[] = []; // the first is being answered
  readonly #onIdle: () => void;
  #timer: NodeJS.Timeout | undefined;
  #isRetired = false;
  #end: Error | undefined;

  /** @param onIdle - called when the last open question is answered */
  constructor(data: ThreadData, limits: ThreadLimits, onIdle: () => void) {
    this.#limits = limits;
    this.#onIdle = onIdle;
    this.#thread = startThread(data);
    this.#thread.on("message", (answer: ThreadAnswer) => this.#receive(answer));
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
   * Finds the tokens that may come next.
   * @throws {RangeError} when the tokens do not fit the grammar, or the answer takes too long
   * @throws {Evicted} when the grammar was evicted
   */
  async mask(question: MaskQuestion): Promise<MaskAnswer> {
    const answer = await this.#ask(question, this.#limits.maxMaskMs);
    if (answer.type === "mask") return answer;
    const message = answer.type === "failed" ? answer.message : "it answered out of order";
    const error = new RangeError(`The answer cannot be matched against its grammar: ${message}`);
    if (answer.type !== "failed" || answer.isFatal) this.close(error);
    throw error;
  }

  /** Ends the thread at once; open questions reject with `error`. */
  close(error: Error): void {
    if (this.#end) return;
    this.#end = error;
    clearTimeout(this.#timer);
    void this.#thread.terminate();
    for (const { reject } of this.#queue.splice(0)) reject(error);
  }

  /** Ends the thread after the question that is being answered; later questions reject with `Evicted`. */
  retire(): void {
    if (this.isIdle) return this.close(new Evicted());
    this.#isRetired = true;
    for (const { reject } of this.#queue.splice(1)) reject(new Evicted());
  }

  async #compile(): Promise<void> {
    const answer = await this.#ask(undefined, this.#limits.maxCompileMs);
    if (answer.type !== "failed") return;
    const message = `The grammar cannot be compiled: ${answer.message}`;
    const error = answer.isOutOfMemory ? new RangeError(message) : new TypeError(message);
    this.close(error);
    throw error;
  }

  #ask(question: MaskQuestion | undefined, limitMs: number): Promise<ThreadAnswer> {
    if (this.#end) return Promise.reject(this.#end);
    if (this.#isRetired) return Promise.reject(new Evicted());
    return new Promise((resolve, reject) => {
      this.#queue.push({ question, limitMs, resolve, reject });
      if (this.#queue.length === 1) this.#next();
    });
  }

  #next(): void {
    const [asked] = this.#queue;
    if (!asked) {
      this.#thread.unref();
      if (this.#isRetired) this.close(new Evicted());
      else this.#onIdle();
      return;
    }
    this.#thread.ref();
    this.#limitTime(asked, LIMIT_PARTS);
    if (asked.question) this.#thread.postMessage(asked.question, []);
  }

  #limitTime(asked: Asked, partsLeft: number): void {
    this.#timer = setTimeout(() => {
      if (partsLeft > 1) return this.#limitTime(asked, partsLeft - 1);
      const what = asked.question ? "match a token" : "compile";
      this.close(new RangeError(`Expected the grammar to ${what} within ${asked.limitMs} ms; simplify it`));
    }, asked.limitMs / LIMIT_PARTS);
  }

  #receive(answer: ThreadAnswer): void {
    // A message that the thread sent before it was ended may arrive afterwards.
    if (this.#end) return;
    clearTimeout(this.#timer);
    this.#queue.shift()?.resolve(answer);
    this.#next();
  }
}

// Development runs the sources, a published package the one file that its build makes of the thread's modules.
const IS_SOURCE = import.meta.url.endsWith(".ts");
const ENTRY = new URL(IS_SOURCE ? "./matcher-main.ts" : "../matcher-main.js", import.meta.url);
// Threads inherit the process's flags, and fail with this one, which is about a program that is not a file.
const THREAD_FLAGS = process.execArgv.some((flag) => flag.startsWith("--input-type")) ? { execArgv: [] } : {};

function startThread(data: ThreadData): Worker {
  const options = { name: "readme-moe-grammar", workerData: data };
  if (!IS_SOURCE) return new Worker(ENTRY, { ...THREAD_FLAGS, ...options });
  // Node 20 does not pass a TypeScript loader on to threads, so the thread registers it itself.
  const entry = JSON.stringify(ENTRY.href);
  const code = `import("tsx/esm/api").then(({ register }) => { register(); return import(${entry}); });`;
  return new Worker(code, { ...options, eval: true });
}

function failed(reason: string, cause?: unknown): ReadMeError {
  return new ReadMeError("ERR_GRAMMAR_FAILED", `The thread of a grammar failed: ${reason}`, { cause });
}
