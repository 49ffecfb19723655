// Constraints of answers on a worker, made from the sources in jobs.

import type { Engine, ProcessLogits } from "@readme-moe/core";
import { Grammars, openConstraint } from "@readme-moe/grammar";

/** Opens constraints; the grammars of an engine are opened with the first. */
export class Constraints {
  readonly #engine: Engine;
  #grammars: Promise<Grammars> | undefined;

  constructor(engine: Engine) {
    this.#engine = engine;
  }

  /** @throws {TypeError | RangeError} on a source that is wrong */
  open(source: object, client: string | undefined): Promise<ProcessLogits> {
    return openConstraint(source, { engine: this.#engine, grammars: () => this.#open(), client });
  }

  #open(): Promise<Grammars> {
    this.#grammars ??= Grammars.open(this.#engine).catch((error: unknown) => {
      // The next job tries again.
      this.#grammars = undefined;
      throw error;
    });
    return this.#grammars;
  }

  async close(): Promise<void> {
    await (await this.#grammars?.catch(() => undefined))?.dispose();
  }
}
