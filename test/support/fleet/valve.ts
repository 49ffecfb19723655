// An engine whose answers stop after some chunks until they are let on.

import type { Engine, GenerateChunk, Generation } from "@readme-moe/core";
import { Deferred } from "../deferred.ts";
import { generationOf } from "../generation.ts";

/** Holds the answers of an engine. */
export class Valve {
  #opened = new Deferred();
  #numChunks = Infinity;

  /** Lets further answers stop after so many chunks. */
  close(numChunks: number): void {
    this.#numChunks = numChunks;
    this.#opened = new Deferred();
  }

  /** Lets all answers go on. */
  open(): void {
    this.#numChunks = Infinity;
    this.#opened.resolve();
  }

  /** Returns the engine with its answers behind the valve. */
  of<Served extends Engine>(engine: Served): Served {
    const generate: Engine["generate"] = (request) => this.#held(engine.generate(request), request.signal);
    return new Proxy(engine, {
      get(target, name) {
        if (name === "generate") return generate;
        const value: unknown = Reflect.get(target, name, target);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
  }

  #held(generation: Generation, signal: AbortSignal | undefined): Generation {
    const [numChunks, opened] = [this.#numChunks, this.#opened];
    const aborted = new Deferred();
    signal?.addEventListener("abort", () => aborted.resolve());
    async function* chunks(): AsyncGenerator<GenerateChunk, void> {
      let count = 0;
      for await (const chunk of generation) {
        if (count++ >= numChunks) await Promise.race([opened.promise, aborted.promise]);
        yield chunk;
      }
    }
    return generationOf(chunks(), generation.accepted);
  }
}
