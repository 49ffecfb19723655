import type { Engine } from "@readme-moe/core";
import type { EngineOutcome } from "./engine-health.ts";
import { outcomeKind } from "./outcome-kind.ts";

/** The use of an engine by one request. */
export interface Lease {
  /** Name of the model that answers. */
  readonly name: string;
  readonly engine: Engine;
  /** The engine may be disposed from now on; once is enough, more do no harm. */
  release(): void;
  /**
   * Tells how the request ended, for `/health` and `/readyz`: with an answer (`undefined`), or with an error. Whether that is
   * the client's or the engine's is seen from the error. The first call counts. The middleware does it for its requests.
   */
  ended(error?: unknown): void;
}

/** The end of a request, and what it ended with. */
export interface ToldOutcome extends EngineOutcome {
  readonly error: unknown;
}

/** An engine under one name, for as long as requests use it there. */
export class ServedEngine {
  readonly name: string;
  readonly engine: Engine;
  readonly #onEnded: (outcome: ToldOutcome) => void;
  #numLeases = 0;
  #onIdle: (() => void)[] = [];

  /** @param onEnded - called with the end of each request that tells it */
  constructor(name: string, engine: Engine, onEnded: (outcome: ToldOutcome) => void = () => undefined) {
    this.name = name;
    this.engine = engine;
    this.#onEnded = onEnded;
  }

  get numLeases(): number {
    return this.#numLeases;
  }

  lease(): Lease {
    const startedMs = performance.now();
    let [isReleased, isTold] = [false, false];
    this.#numLeases++;
    const release = (): void => {
      if (isReleased) return;
      isReleased = true;
      if (--this.#numLeases > 0) return;
      for (const resolve of this.#onIdle) resolve();
      this.#onIdle = [];
    };
    const ended = (error?: unknown): void => {
      if (isTold) return;
      isTold = true;
      this.#onEnded({ kind: outcomeKind(error), startedMs, endedMs: performance.now(), error });
    };
    return { name: this.name, engine: this.engine, release, ended };
  }

  /** Resolves when no request uses it; those who come later are not waited for. */
  async whenIdle(): Promise<void> {
    if (this.#numLeases > 0) await new Promise<void>((resolve) => this.#onIdle.push(resolve));
  }
}
