// Low-rank experts of a running engine: which ones requests may use now, and changes of the set while requests run.

import { errorChain, ReadMeError, type Engine, type EngineInfo, type ErrorLink } from "@readme-moe/core";
import { adapterExists, adapterNotFound, noAdapters } from "./refusals.ts";
import { NO_EXPERT } from "./model-ids.ts";

/** Whether a model's experts are changes of one dense model. */
export function hasLowRankExperts(info: EngineInfo): boolean {
  return info.expertKind === "low-rank";
}

/** An expert that could not be loaded again after the engine had failed. */
export interface LostExpert {
  readonly expert: string;
  /** The error and its causes, outermost first. */
  readonly causes: readonly ErrorLink[];
}

/**
 * The experts of one engine. Loads and unloads of the same name run one after the other, and those of other names at
 * the same time. What was loaded and unloaded holds also after the engine was opened again.
 */
class LiveExperts {
  readonly #engine: Engine;
  /** Paths of loaded experts, in the order in which they were loaded. */
  readonly #loaded = new Map<string, string>();
  /** Experts that were unloaded, or whose last requests are ending. A failed engine may still list them. */
  readonly #unloaded = new Set<string>();
  /** End of the last change of each name that has changes under way. */
  readonly #turns = new Map<string, Promise<void>>();

  constructor(engine: Engine) {
    this.#engine = engine;
  }

  /** Names of the low-rank experts that a new request may use. */
  get names(): readonly string[] {
    const { info } = this.#engine;
    if (!hasLowRankExperts(info)) return [];
    // The first is the model itself, and names of unloaded experts are empty.
    return info.experts.slice(1).filter((name) => name !== "" && !this.#unloaded.has(name));
  }

  /** Names that a model's name can be joined with. "None" is one of them where the name alone means the router. */
  get addressable(): readonly string[] {
    const { names } = this;
    return names.length > 0 && this.#engine.info.hasRouter ? [NO_EXPERT, ...names] : names;
  }

  /**
   * Loads an expert, after earlier changes of its name have ended.
   *
   * @param path - its folder
   * @param signal - keeps a load that has not begun from beginning
   * @throws {ApiError} 400 where the engine takes no experts, or has one of this name
   * @throws {ReadMeError} when the folder cannot be taken, or the engine has failed
   */
  async load(name: string, path: string, signal: AbortSignal): Promise<void> {
    const engine = this.#changeable();
    await this.#inTurn(name, async () => {
      signal.throwIfAborted();
      if (this.names.includes(name)) throw adapterExists(name);
      await engine.addExpert(name, path);
      this.#loaded.set(name, path);
      this.#unloaded.delete(name);
    });
  }

  /**
   * Unloads an expert, after earlier changes of its name have ended. New requests cannot use it from then on.
   *
   * @returns a promise that resolves when its running requests have ended
   * @throws {ApiError} 400 where the engine takes no experts; 404 where it has none of this name
   */
  async unload(name: string, signal: AbortSignal): Promise<void> {
    const engine = this.#changeable();
    await this.#inTurn(name, async () => {
      signal.throwIfAborted();
      if (!this.names.includes(name)) throw adapterNotFound(name);
      const path = this.#loaded.get(name);
      this.#loaded.delete(name);
      this.#unloaded.add(name);
      try {
        await engine.removeExpert(name);
      } catch (error) {
        // A failed engine has lost the expert, and does not get it again.
        if (error instanceof ReadMeError && error.code === "ERR_ENGINE_FAILED") return;
        if (path !== undefined) this.#loaded.set(name, path);
        this.#unloaded.delete(name);
        throw error;
      }
    });
  }

  /**
   * Gives an engine that was opened again the experts that it had.
   *
   * @returns those that it does not take any more, which are forgotten
   * @throws {ReadMeError} when the engine fails meanwhile
   */
  async restore(): Promise<readonly LostExpert[]> {
    const engine = this.#engine;
    if (!hasLowRankExperts(engine.info)) return [];
    const has = (name: string): boolean => engine.info.experts.includes(name);
    // One after the other, so that their order is the same as before.
    for (const name of this.#unloaded) {
      // oxlint-disable-next-line no-await-in-loop -- as above
      if (has(name)) await engine.removeExpert(name);
    }
    const lost: LostExpert[] = [];
    for (const [expert, path] of this.#loaded) {
      if (has(expert)) continue;
      try {
        // oxlint-disable-next-line no-await-in-loop -- as above
        await engine.addExpert(expert, path);
      } catch (error) {
        if (error instanceof ReadMeError && (error.code === "ERR_ENGINE_FAILED" || error.code === "ERR_DISPOSED")) {
          throw error;
        }
        this.#loaded.delete(expert);
        lost.push({ expert, causes: errorChain(error) });
      }
    }
    return lost;
  }

  /** Returns the engine. @throws {ApiError} 400 where it takes no experts */
  #changeable(): Engine {
    if (!hasLowRankExperts(this.#engine.info)) throw noAdapters();
    return this.#engine;
  }

  async #inTurn(name: string, change: () => Promise<void>): Promise<void> {
    const before = this.#turns.get(name);
    const turn = (before ?? Promise.resolve()).then(change);
    const ended = turn.catch(() => undefined);
    this.#turns.set(name, ended);
    try {
      await turn;
    } finally {
      if (this.#turns.get(name) === ended) this.#turns.delete(name);
    }
  }
}

export type { LiveExperts };

const known = new WeakMap<Engine, LiveExperts>();

/** Returns the experts of an engine, which is the same object at every call. */
export function liveExperts(engine: Engine): LiveExperts {
  const found = known.get(engine) ?? new LiveExperts(engine);
  known.set(engine, found);
  return found;
}
