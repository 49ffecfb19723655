import { resolve } from "node:path";
import { describeValue, expertIndex, ReadMeError } from "@readme-moe/core";
import type { CallingEngine } from "./calling-engine.ts";

/** The engine whose experts change. */
interface ChangedEngine extends CallingEngine {
  readonly setNames: (experts: readonly string[]) => void;
}

/** Adds and removes low-rank experts, and remembers them for an engine that is opened again after a failure. */
export class ExpertChanges {
  readonly #engine: ChangedEngine;
  readonly #added = new Map<string, string>();
  /** Experts of the model's folder and the options that were removed, also where another one has the name now. */
  readonly #removed = new Set<string>();

  /** @param setNames - sets the names in the engine's info */
  constructor(engine: CallingEngine, setNames: ChangedEngine["setNames"]) {
    this.#engine = { ...engine, setNames };
  }

  async add(name: string, path: string): Promise<void> {
    checkName(name);
    if (typeof path !== "string" || path === "") {
      throw new TypeError(`Expected \`path\` to name the folder of an adapter, got ${describeValue(path)}`);
    }
    const folder = resolve(path);
    this.#engine.setNames(await this.#engine.call("addExpert", { name, path: folder }));
    this.#added.set(name, folder);
  }

  async remove(name: string): Promise<void> {
    checkName(name);
    const { experts, expertKind, path } = this.#engine.getInfo();
    const index = expertIndex(experts, name);
    if (expertKind !== "low-rank" || index === 0 || experts[index] !== name) {
      throw new RangeError(`Expected \`name\` to be a low-rank expert of ${path}, got \`${name}\``);
    }
    // New requests are refused at once.
    this.#engine.setNames(experts.map((known) => (known === name ? "" : known)));
    if (!this.#added.delete(name)) this.#removed.add(name);
    this.#engine.setNames(await this.#engine.call("removeExpert", { name }));
  }

  /**
   * Makes the changes again in an engine that was opened again. Experts that cannot be added any more are left out, so
   * that the model and the other experts work.
   *
   * @throws {ReadMeError} `ERR_ENGINE_FAILED`, `ERR_DISPOSED`
   */
  async repeat(): Promise<void> {
    const { experts } = this.#engine.getInfo();
    for (const name of this.#removed) {
      if (experts.includes(name)) this.#engine.setNames(await this.#engine.call("removeExpert", { name }));
    }
    for (const [name, path] of this.#added) {
      try {
        this.#engine.setNames(await this.#engine.call("addExpert", { name, path }));
      } catch (error) {
        const code = error instanceof ReadMeError ? error.code : undefined;
        if (code === "ERR_ENGINE_FAILED" || code === "ERR_DISPOSED") throw error;
        this.#added.delete(name);
      }
    }
  }
}

function checkName(name: unknown): void {
  if (typeof name === "string" && name !== "") return;
  throw new TypeError(`Expected \`name\` to be the name of an expert, got ${describeValue(name)}`);
}
