import { type EngineVocabulary, ReadMeError } from "@readme-moe/core";
import type { KeyedSource } from "../grammar-source.ts";
import type { Asker, GrammarLimits } from "../grammars-options.ts";
import { type CompileState, nextMove, Turns } from "./compile-plan.ts";
import { Evicted, GrammarThread } from "./grammar-thread.ts";
import type { MaskAnswer, MaskQuestion } from "./protocol.ts";

interface Kept {
  readonly thread: GrammarThread;
  readonly client: string;
  readonly usedMs: number;
}

/** Share of `maxCompileMs` after which a compilation makes room for others that wait. */
const SLICE = 0.2;

/** Caches compiled grammars. `nextMove` decides which grammar is compiled next, and which is evicted for it. */
export class GrammarCache {
  readonly #vocabulary: EngineVocabulary;
  readonly #limits: GrammarLimits;
  /** Compilations in the order of their arrival. */
  readonly #wanted = new Map<string, Wanted>();
  readonly #runs = new Set<Run>();
  readonly #kept = new Map<string, Kept>();
  readonly #retiring = new Set<GrammarThread>();
  readonly #ending = new Set<GrammarThread>();
  readonly #refusals = new Refusals();
  readonly #turns = new Turns();
  #timer: NodeJS.Timeout | undefined;
  #numUnnamed = 0;
  #isDisposed = false;

  constructor(vocabulary: EngineVocabulary, limits: GrammarLimits) {
    this.#vocabulary = vocabulary;
    this.#limits = limits;
  }

  /**
   * Compiles a grammar, unless it is cached.
   *
   * @throws {TypeError | RangeError} when the grammar is wrong or takes too much
   * @throws {ReadMeError} `ERR_QUEUE_FULL`, `ERR_DISPOSED`
   * @throws the signal's reason
   */
  async compile(source: KeyedSource, asker: Asker): Promise<void> {
    await this.#use(source, asker, () => Promise.resolve());
  }

  /** Asks a grammar, which is compiled again where it was evicted. @throws as `compile`, and `GrammarThread.mask` */
  async mask(source: KeyedSource, question: MaskQuestion, asker: Asker): Promise<MaskAnswer> {
    for (;;) {
      try {
        return await this.#use(source, asker, (thread) => thread.mask(question));
      } catch (error) {
        if (!(error instanceof Evicted)) throw error;
      }
    }
  }

  /** Ends all threads. Open calls reject with `ERR_DISPOSED`. */
  dispose(): void {
    this.#isDisposed = true;
    clearTimeout(this.#timer);
    for (const wanted of this.#wanted.values()) this.#fail(wanted, disposed());
    const threads = [...[...this.#kept.values(), ...this.#runs].map(({ thread }) => thread), ...this.#retiring];
    for (const thread of threads) thread.close(disposed());
    this.#kept.clear();
  }

  /** Waits for a grammar. `use` is called as soon as it is compiled, before it can be evicted. */
  async #use<Result>(
    source: KeyedSource,
    { client: name, signal }: Asker,
    use: (thread: GrammarThread) => Promise<Result>,
  ): Promise<Result> {
    signal?.throwIfAborted();
    if (this.#isDisposed) throw disposed();
    const { key } = source;
    // A call without a client's name is a client of its own.
    const client = name ?? `\0${++this.#numUnnamed}`;
    const refusal = this.#refusals.get(key);
    if (refusal) throw refusal;
    const known = this.#kept.get(key);
    if (known?.thread.isOpen) {
      this.#keep(key, known.thread, client);
      return use(known.thread);
    }
    const wanted = this.#wanted.get(key) ?? this.#want(source, client);
    return new Promise<Result>((resolve, reject) => {
      const stop = (): void => signal?.removeEventListener("abort", onAbort);
      const waiter: Waiter = {
        client,
        succeed: (thread) => {
          stop();
          resolve(use(thread));
        },
        fail: (error) => {
          stop();
          // oxlint-disable-next-line prefer-promise-reject-errors -- a signal's reason can be anything
          reject(error);
        },
      };
      const onAbort = (): void => {
        waiter.fail(signal?.reason);
        this.#leave(wanted, waiter);
      };
      signal?.addEventListener("abort", onAbort, { once: true });
      wanted.waiters.add(waiter);
      this.#turns.join(client);
      this.#pump();
    });
  }

  /** @throws {ReadMeError} `ERR_QUEUE_FULL` */
  #want(source: KeyedSource, client: string): Wanted {
    const { maxWaiting } = this.#limits;
    if (this.#wanted.size >= maxWaiting) throw full(this.#wanted.size, "");
    const share = Math.ceil(maxWaiting / 2);
    const own = [...this.#wanted.values()].filter((one) => clientsOf(one).includes(client)).length;
    if (own >= share) throw full(own, " of this client");
    const wanted: Wanted = { ...source, waiters: new Set(), isLong: false, run: undefined };
    this.#wanted.set(source.key, wanted);
    return wanted;
  }

  #leave(wanted: Wanted, waiter: Waiter): void {
    wanted.waiters.delete(waiter);
    if (wanted.waiters.size > 0 || this.#wanted.get(wanted.key) !== wanted) return;
    this.#wanted.delete(wanted.key);
    this.#abandon(wanted);
    this.#pump();
  }

  /** Makes all moves that are possible now. */
  #pump(): void {
    clearTimeout(this.#timer);
    while (!this.#isDisposed && this.#wanted.size > 0) {
      const move = nextMove(this.#state());
      if (move.type === "wait") {
        if (move.forMs !== undefined) this.#timer = setTimeout(() => this.#pump(), Math.ceil(move.forMs)).unref();
        return;
      }
      const { key } = move;
      switch (move.type) {
        case "start":
          this.#start(key);
          break;
        case "promote":
          for (const run of this.#runs) if (run.key === key && !run.isLong) run.isLong = true;
          break;
        case "put-off":
          this.#putOff(key, move.isLong);
          break;
        case "evict":
        case "retire":
          this.#evict(key);
          break;
        default:
          throw new TypeError(`Unknown move: ${String(move satisfies never)}`);
      }
    }
  }

  #state(): CompileState {
    for (const [key, { thread }] of this.#kept) if (!thread.isOpen) this.#evict(key);
    const wanted = [...this.#wanted.values()].map((one) => ({ ...one, clients: clientsOf(one) }));
    this.#turns.keepOnly(new Set(wanted.flatMap(({ clients }) => clients)));
    return {
      waiting: wanted.filter(({ run }) => run === undefined),
      running: [...this.#runs].map((run) => ({
        ...run,
        clients: run.wanted ? clientsOf(run.wanted) : [],
        isEnding: run.wanted === undefined,
      })),
      kept: [...this.#kept].map(([key, { thread, ...rest }]) => ({ key, isIdle: thread.isIdle, ...rest })),
      numRetiring: this.#retiring.size,
      numEnding: this.#ending.size,
      turns: this.#turns.all,
      maxGrammars: this.#limits.maxGrammars,
      sliceMs: SLICE * this.#limits.maxCompileMs,
      nowMs: performance.now(),
    };
  }

  #start(key: string): void {
    const wanted = this.#wanted.get(key);
    if (!wanted) return;
    const { source, isLong } = wanted;
    this.#turns.had(clientsOf(wanted));
    const data = { vocabulary: this.#vocabulary, source, maxBytes: this.#limits.maxBytes };
    let thread: GrammarThread;
    try {
      thread = new GrammarThread(data, this.#limits, () => this.#pump());
    } catch (cause) {
      const error = new ReadMeError("ERR_GRAMMAR_FAILED", "The thread of a grammar cannot be started", { cause });
      return this.#fail(wanted, error);
    }
    const run: Run = { key, thread, startedMs: performance.now(), isLong, wanted };
    wanted.run = run;
    this.#runs.add(run);
    thread.compiled.then(
      () => this.#compiled(run),
      (error: unknown) => this.#failed(run, error),
    );
    void thread.ended.then(() => this.#ended(run));
  }

  #ended(run: Run): void {
    const { key, thread } = run;
    this.#runs.delete(run);
    this.#retiring.delete(thread);
    this.#ending.delete(thread);
    if (this.#kept.get(key)?.thread === thread) this.#kept.delete(key);
    this.#pump();
  }

  #compiled(run: Run): void {
    const { key, thread, wanted } = run;
    if (!wanted || !thread.isOpen) return;
    this.#runs.delete(run);
    this.#wanted.delete(key);
    for (const waiter of wanted.waiters) {
      this.#keep(key, thread, waiter.client);
      waiter.succeed(thread);
    }
    this.#pump();
  }

  #failed(run: Run, error: unknown): void {
    const { key, wanted } = run;
    run.wanted = undefined;
    if (!wanted) return;
    if (error instanceof TypeError || error instanceof RangeError) this.#refusals.add(key, error);
    this.#fail(wanted, error);
    this.#pump();
  }

  #fail(wanted: Wanted, error: unknown): void {
    this.#wanted.delete(wanted.key);
    for (const waiter of wanted.waiters) waiter.fail(error);
  }

  /** Ends the thread that compiles. */
  #abandon(wanted: Wanted): void {
    const { run } = wanted;
    if (!run) return;
    run.wanted = undefined;
    wanted.run = undefined;
    run.thread.close(new Evicted());
  }

  #putOff(key: string, isLong: boolean): void {
    const wanted = this.#wanted.get(key);
    if (!wanted) return;
    this.#abandon(wanted);
    if (!isLong) return;
    wanted.isLong = true;
    this.#wanted.delete(wanted.key);
    this.#wanted.set(wanted.key, wanted);
  }

  /** Makes a grammar the most recently used one. */
  #keep(key: string, thread: GrammarThread, client: string): void {
    this.#kept.delete(key);
    this.#kept.set(key, { thread, client, usedMs: performance.now() });
  }

  #evict(key: string): void {
    const thread = this.#kept.get(key)?.thread;
    if (!thread) return;
    this.#kept.delete(key);
    thread.retire();
    (thread.isIdle ? this.#ending : this.#retiring).add(thread);
  }
}

function full(count: number, whose: string): ReadMeError {
  return new ReadMeError("ERR_QUEUE_FULL", `${count} grammars${whose} wait to be compiled; try again later`);
}

function disposed(): ReadMeError {
  return new ReadMeError("ERR_DISPOSED", "The grammars were disposed");
}

// Compilations that clients wait for, and refused grammars.

interface Waiter {
  readonly client: string;
  readonly succeed: (thread: GrammarThread) => void;
  readonly fail: (error: unknown) => void;
}

/** A compilation that calls wait for. */
interface Wanted extends KeyedSource {
  readonly waiters: Set<Waiter>;
  isLong: boolean;
  run: Run | undefined;
}

interface Run {
  readonly key: string;
  readonly thread: GrammarThread;
  readonly startedMs: number;
  isLong: boolean;
  /** `undefined` once the compilation was abandoned and its thread is ending. */
  wanted: Wanted | undefined;
}

function clientsOf({ waiters }: Wanted): readonly string[] {
  return [...new Set([...waiters].map(({ client }) => client))];
}

const MAX_REFUSALS = 64;
const RETRY_MS = 60_000;

/** Remembers grammars that could not be compiled, so that they are not compiled again at once. */
class Refusals {
  readonly #refusals = new Map<string, { readonly error: Error; readonly untilMs: number }>();

  get(key: string): Error | undefined {
    const refusal = this.#refusals.get(key);
    return refusal && performance.now() < refusal.untilMs ? refusal.error : undefined;
  }

  add(key: string, error: TypeError | RangeError): void {
    // A grammar that took too long may have met a busy machine.
    const untilMs = error instanceof RangeError ? performance.now() + RETRY_MS : Infinity;
    this.#refusals.delete(key);
    this.#refusals.set(key, { error, untilMs });
    for (const oldest of this.#refusals.keys()) {
      if (this.#refusals.size <= MAX_REFUSALS) return;
      this.#refusals.delete(oldest);
    }
  }
}
