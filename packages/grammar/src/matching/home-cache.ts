import { ReadMeError, type EngineVocabulary } from "@readme-moe/core";
import { sourceKey, type GrammarSource } from "../grammar-source.ts";
import { GrammarHome, type HomeLimits } from "./grammar-home.ts";
import type { MaskQuestion } from "./protocol.ts";

export interface HomeCacheLimits extends HomeLimits {
  /** Kept compiled, each with its thread. */
  readonly maxGrammars: number;
  /** That wait to be compiled. */
  readonly maxWaiting: number;
  /** Of memory, for each grammar. */
  readonly maxBytes: number;
}

const MAX_REFUSALS = 64;
const RETRY_MS = 60_000;

/** Compiled grammars, those used last kept; one is compiled at a time, so that many cannot take the machine. */
export class HomeCache {
  readonly #vocabulary: EngineVocabulary;
  readonly #limits: HomeCacheLimits;
  readonly #homes = new Map<string, GrammarHome>();
  readonly #opening = new Map<string, Promise<GrammarHome>>();
  /** What could not be compiled is not tried again at once. */
  readonly #refusals = new Map<string, { readonly error: Error; readonly untilMs: number }>();
  #lastOpened: Promise<unknown> = Promise.resolve();
  #isDisposed = false;

  constructor(vocabulary: EngineVocabulary, limits: HomeCacheLimits) {
    this.#vocabulary = vocabulary;
    this.#limits = limits;
  }

  /**
   * @throws {TypeError | RangeError} when the grammar is wrong or too much
   * @throws {ReadMeError} `ERR_QUEUE_FULL`, `ERR_DISPOSED`
   */
  async compile(source: GrammarSource): Promise<void> {
    await this.#home(source);
  }

  /** Compiles the grammar again where it had to make room. @throws as `compile`, and `GrammarHome.mask` */
  async mask(source: GrammarSource, question: MaskQuestion): Promise<Int32Array> {
    for (;;) {
      const home = await this.#home(source);
      // It can have made room in the meantime.
      if (home.isOpen) return home.mask(question);
    }
  }

  async #home(source: GrammarSource): Promise<GrammarHome> {
    if (this.#isDisposed) throw disposed();
    const key = sourceKey(source);
    const refusal = this.#refusals.get(key);
    if (refusal && performance.now() < refusal.untilMs) throw refusal.error;
    const known = this.#homes.get(key);
    if (known?.isOpen) {
      // The one used last is forgotten last.
      this.#homes.delete(key);
      this.#homes.set(key, known);
      return known;
    }
    const under = this.#opening.get(key);
    if (under) return under;
    if (this.#opening.size >= this.#limits.maxWaiting) {
      throw new ReadMeError("ERR_QUEUE_FULL", `${this.#opening.size} grammars wait to be compiled; try again later`);
    }
    const opening = this.#lastOpened.then(() => this.#open(key, source)).finally(() => this.#opening.delete(key));
    this.#opening.set(key, opening);
    this.#lastOpened = opening.catch(() => undefined);
    return opening;
  }

  /** Those who wait get `ERR_DISPOSED`. */
  dispose(): void {
    this.#isDisposed = true;
    for (const home of this.#homes.values()) home.close(disposed());
    this.#homes.clear();
  }

  async #open(key: string, source: GrammarSource): Promise<GrammarHome> {
    await this.#makeRoom();
    if (this.#isDisposed) throw disposed();
    const { maxBytes } = this.#limits;
    try {
      const home = await GrammarHome.open({ vocabulary: this.#vocabulary, source, maxBytes }, this.#limits);
      if (this.#isDisposed) home.close(disposed());
      else this.#homes.set(key, home);
      return home;
    } catch (error) {
      if (error instanceof TypeError || error instanceof RangeError) this.#refuse(key, error);
      throw error;
    }
  }

  async #makeRoom(): Promise<void> {
    for (;;) {
      for (const [key, home] of this.#homes) {
        if (home.isOpen && (this.#homes.size < this.#limits.maxGrammars || !home.isIdle)) continue;
        this.#homes.delete(key);
        home.close(new ReadMeError("ERR_DISPOSED", "The grammar made room for another one"));
      }
      if (this.#homes.size < this.#limits.maxGrammars) return;
      await Promise.race([...this.#homes.values()].map((home) => home.whenIdle()));
    }
  }

  #refuse(key: string, error: Error): void {
    // What took too long may have met a busy machine.
    const untilMs = error instanceof RangeError ? performance.now() + RETRY_MS : Infinity;
    this.#refusals.delete(key);
    this.#refusals.set(key, { error, untilMs });
    for (const oldest of this.#refusals.keys()) {
      if (this.#refusals.size <= MAX_REFUSALS) return;
      this.#refusals.delete(oldest);
    }
  }
}

function disposed(): ReadMeError {
  return new ReadMeError("ERR_DISPOSED", "The grammars were disposed");
}
