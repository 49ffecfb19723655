import { ReadMeError, type EngineVocabulary } from "@readme-moe/core";
import type { Asker } from "../asker.ts";
import type { KeyedSource } from "../grammar-source.ts";
import { nextMove, type CompileState } from "./compile-plan.ts";
import { GrammarHome, MadeRoom, type HomeLimits } from "./grammar-home.ts";
import type { MaskQuestion } from "./protocol.ts";
import { Refusals } from "./refusals.ts";
import { Turns } from "./turns.ts";
import { clientsOf, giveUp, type Run, type Waiter, type Wanted } from "./wanted.ts";

export interface HomeCacheLimits extends HomeLimits {
  /** Compiled or being compiled, each with its thread. */
  readonly maxGrammars: number;
  /** That wait to be compiled. */
  readonly maxWaiting: number;
  /** Of memory, for each grammar. */
  readonly maxBytes: number;
}

interface Kept {
  readonly home: GrammarHome;
  readonly client: string;
  readonly usedMs: number;
}

/** So much of the longest compilation may pass before it makes room for others that wait. */
const SLICE = 0.2;

/** Compiled grammars. Those used last are kept; what is compiled next, and what makes room for it, `nextMove` decides. */
export class HomeCache {
  readonly #vocabulary: EngineVocabulary;
  readonly #limits: HomeCacheLimits;
  /** In the order in which they came. */
  readonly #wanted = new Map<string, Wanted>();
  readonly #runs = new Set<Run>();
  readonly #kept = new Map<string, Kept>();
  readonly #retiring = new Set<GrammarHome>();
  readonly #ending = new Set<GrammarHome>();
  readonly #refusals = new Refusals();
  readonly #turns = new Turns();
  #timer: NodeJS.Timeout | undefined;
  #numUnnamed = 0;
  #isDisposed = false;

  constructor(vocabulary: EngineVocabulary, limits: HomeCacheLimits) {
    this.#vocabulary = vocabulary;
    this.#limits = limits;
  }

  /**
   * @throws {TypeError | RangeError} when the grammar is wrong or too much
   * @throws {ReadMeError} `ERR_QUEUE_FULL`, `ERR_DISPOSED`
   * @throws the signal's reason
   */
  async compile(source: KeyedSource, asker: Asker): Promise<void> {
    await this.#use(source, asker, () => Promise.resolve());
  }

  /** Compiles the grammar again where it had to make room. @throws as `compile`, and `GrammarHome.mask` */
  async mask(source: KeyedSource, question: MaskQuestion, asker: Asker): Promise<Int32Array> {
    for (;;) {
      try {
        return await this.#use(source, asker, (home) => home.mask(question));
      } catch (error) {
        if (!(error instanceof MadeRoom)) throw error;
      }
    }
  }

  /** Those who wait get `ERR_DISPOSED`. */
  dispose(): void {
    this.#isDisposed = true;
    clearTimeout(this.#timer);
    for (const wanted of this.#wanted.values()) this.#fail(wanted, disposed());
    const homes = [...[...this.#kept.values(), ...this.#runs].map(({ home }) => home), ...this.#retiring];
    for (const home of homes) home.close(disposed());
    this.#kept.clear();
  }

  /** @param use - called as soon as the grammar is there, before it can make room for another one */
  async #use<Result>(
    source: KeyedSource,
    { client: name, signal }: Asker,
    use: (home: GrammarHome) => Promise<Result>,
  ): Promise<Result> {
    signal?.throwIfAborted();
    if (this.#isDisposed) throw disposed();
    const { key } = source;
    // Who has no name is a client of its own.
    const client = name ?? `\0${++this.#numUnnamed}`;
    const refusal = this.#refusals.get(key);
    if (refusal) throw refusal;
    const known = this.#kept.get(key);
    if (known?.home.isOpen) {
      this.#keep(key, known.home, client);
      return use(known.home);
    }
    const wanted = this.#wanted.get(key) ?? this.#want(source, client);
    return new Promise<Result>((resolve, reject) => {
      const stop = (): void => signal?.removeEventListener("abort", onAbort);
      const waiter: Waiter = {
        client,
        succeed: (home) => {
          stop();
          resolve(use(home));
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
    if (wanted.run) giveUp(wanted.run);
    this.#pump();
  }

  /** Makes all moves that can be made now. */
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
          this.#start(this.#wanted.get(key) as Wanted);
          break;
        case "promote":
          for (const run of this.#runs) if (run.key === key && !run.isLong) run.isLong = true;
          break;
        case "put-off":
          this.#putOff(this.#wanted.get(key) as Wanted, move.isLong);
          break;
        case "evict":
        case "retire":
          this.#makeRoom(key);
          break;
        default:
          throw new TypeError(`Unknown move: ${String(move satisfies never)}`);
      }
    }
  }

  #state(): CompileState {
    for (const [key, { home }] of this.#kept) if (!home.isOpen) this.#makeRoom(key);
    const wanted = [...this.#wanted.values()].map((one) => ({ ...one, clients: clientsOf(one) }));
    this.#turns.keepOnly(new Set(wanted.flatMap(({ clients }) => clients)));
    return {
      waiting: wanted.filter(({ run }) => run === undefined),
      running: [...this.#runs].map((run) => ({
        ...run,
        clients: run.wanted ? clientsOf(run.wanted) : [],
        isEnding: run.wanted === undefined,
      })),
      kept: [...this.#kept].map(([key, { home, ...rest }]) => ({ key, isIdle: home.isIdle, ...rest })),
      numRetiring: this.#retiring.size,
      numEnding: this.#ending.size,
      turns: this.#turns.all,
      maxGrammars: this.#limits.maxGrammars,
      sliceMs: SLICE * this.#limits.maxCompileMs,
      nowMs: performance.now(),
    };
  }

  #start(wanted: Wanted): void {
    const { key, source, isLong } = wanted;
    this.#turns.had(clientsOf(wanted));
    const data = { vocabulary: this.#vocabulary, source, maxBytes: this.#limits.maxBytes };
    let home: GrammarHome;
    try {
      home = new GrammarHome(data, this.#limits, () => this.#pump());
    } catch (cause) {
      const error = new ReadMeError("ERR_GRAMMAR_FAILED", "The thread of a grammar cannot be started", { cause });
      return this.#fail(wanted, error);
    }
    const run: Run = { key, home, startedMs: performance.now(), isLong, wanted };
    wanted.run = run;
    this.#runs.add(run);
    home.compiled.then(
      () => this.#compiled(run),
      (error: unknown) => this.#failed(run, error),
    );
    void home.ended.then(() => this.#ended(run));
  }

  #ended(run: Run): void {
    const { key, home } = run;
    this.#runs.delete(run);
    this.#retiring.delete(home);
    this.#ending.delete(home);
    if (this.#kept.get(key)?.home === home) this.#kept.delete(key);
    this.#pump();
  }

  #compiled(run: Run): void {
    const { key, home, wanted } = run;
    if (!wanted || !home.isOpen) return;
    this.#runs.delete(run);
    this.#wanted.delete(key);
    for (const waiter of wanted.waiters) {
      this.#keep(key, home, waiter.client);
      waiter.succeed(home);
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

  #putOff(wanted: Wanted, isLong: boolean): void {
    if (wanted.run) giveUp(wanted.run);
    wanted.run = undefined;
    if (!isLong) return;
    wanted.isLong = true;
    this.#wanted.delete(wanted.key);
    this.#wanted.set(wanted.key, wanted);
  }

  /** The one used last is forgotten last. */
  #keep(key: string, home: GrammarHome, client: string): void {
    this.#kept.delete(key);
    this.#kept.set(key, { home, client, usedMs: performance.now() });
  }

  #makeRoom(key: string): void {
    const { home } = this.#kept.get(key) as Kept;
    this.#kept.delete(key);
    home.retire();
    (home.isIdle ? this.#ending : this.#retiring).add(home);
  }
}

function full(count: number, whose: string): ReadMeError {
  return new ReadMeError("ERR_QUEUE_FULL", `${count} grammars${whose} wait to be compiled; try again later`);
}

function disposed(): ReadMeError {
  return new ReadMeError("ERR_DISPOSED", "The grammars were disposed");
}
