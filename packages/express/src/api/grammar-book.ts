// Grammars of the engines that serve: made when an answer is first to be bound, ended when their engine serves no more.

import type { Engine } from "@readme-moe/core";
import { Grammars, type GrammarsOptions } from "@readme-moe/grammar";
import type { ServedModels } from "../edge/served-models.ts";

/** One request's use of an engine's grammars. */
export interface GrammarUse {
  /** @throws {TypeError} when the model has no end token; the signal's reason */
  grammars(signal?: AbortSignal): Promise<Grammars>;
  release(): void;
}

interface Entry {
  grammars: Promise<Grammars> | undefined;
  numUses: number;
}

export class GrammarBook {
  readonly #models: Pick<ServedModels, "list">;
  readonly #options: GrammarsOptions;
  readonly #entries = new Map<Engine, Entry>();

  constructor(models: Pick<ServedModels, "list">, options: GrammarsOptions = {}) {
    this.#models = models;
    this.#options = options;
  }

  use(engine: Engine): GrammarUse {
    const entry = this.#entries.get(engine) ?? { grammars: undefined, numUses: 0 };
    this.#entries.set(engine, entry);
    entry.numUses++;
    return {
      grammars: (signal) => unlessAborted((entry.grammars ??= this.#open(engine, entry)), signal),
      release: () => {
        entry.numUses--;
        this.#sweep();
      },
    };
  }

  async #open(engine: Engine, entry: Entry): Promise<Grammars> {
    try {
      return await Grammars.open(engine, this.#options);
    } catch (error) {
      // The next one may have more luck.
      entry.grammars = undefined;
      throw error;
    }
  }

  /** Engines are exchanged while they serve; what was made for those that went away goes, too. */
  #sweep(): void {
    const served = new Set(this.#models.list().map(({ engine }) => engine));
    for (const [engine, { numUses, grammars }] of this.#entries) {
      if (numUses > 0 || served.has(engine)) continue;
      this.#entries.delete(engine);
      grammars?.then((one) => one.dispose()).catch(() => undefined);
    }
  }
}

/** Rejects as soon as nobody waits any more; `work` goes on for others. */
function unlessAborted<Result>(work: Promise<Result>, signal: AbortSignal | undefined): Promise<Result> {
  if (!signal) return work;
  return new Promise((resolve, reject) => {
    // oxlint-disable-next-line prefer-promise-reject-errors -- a signal's reason can be anything
    const onAbort = (): void => reject(signal.reason);
    if (signal.aborted) onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
    void work.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}
