import type { Engine } from "@readme-moe/core";

/** The use of an engine by one request. */
export interface Lease {
  /** Name of the model that answers. */
  readonly name: string;
  readonly engine: Engine;
  /** The engine may be disposed from now on; once is enough, more do no harm. */
  release(): void;
}

/** An engine under one name, for as long as requests use it there. */
export class ServedEngine {
  readonly name: string;
  readonly engine: Engine;
  #numLeases = 0;
  #onIdle: (() => void)[] = [];

  constructor(name: string, engine: Engine) {
    this.name = name;
    this.engine = engine;
  }

  get numLeases(): number {
    return this.#numLeases;
  }

  lease(): Lease {
    let isReleased = false;
    this.#numLeases++;
    const release = (): void => {
      if (isReleased) return;
      isReleased = true;
      if (--this.#numLeases > 0) return;
      for (const resolve of this.#onIdle) resolve();
      this.#onIdle = [];
    };
    return { name: this.name, engine: this.engine, release };
  }

  /** Resolves when no request uses it; those who come later are not waited for. */
  async whenIdle(): Promise<void> {
    if (this.#numLeases > 0) await new Promise<void>((resolve) => this.#onIdle.push(resolve));
  }
}
