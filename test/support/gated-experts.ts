// An engine of nothing but experts, in memory: a test decides when each change of them ends, and when it fails.

import { ReadMeError, type Engine } from "@readme-moe/core";

interface Change {
  readonly kind: "add" | "remove";
  readonly name: string;
  readonly settle: (error?: Error) => void;
}

export class GatedExperts {
  readonly #initial: readonly string[];
  #experts: readonly string[];
  #hasFailed = false;
  /** Changes under way. */
  readonly pending: Change[] = [];
  /** Whether changes end at once. */
  isOpen = false;
  readonly engine: Engine;

  constructor(initial: readonly string[], { hasRouter = false } = {}) {
    this.#initial = ["none", ...initial];
    this.#experts = this.#initial;
    // oxlint-disable-next-line typescript/no-this-alias, unicorn/no-this-assignment -- for the getter
    const self = this;
    const parts = {
      get info() {
        return { path: "/models/base", expertKind: "lora", experts: self.#experts, hasRouter };
      },
      addExpert: async (name: string, path: string) => {
        await this.#change("add", name);
        if (path.startsWith("bad")) throw new ReadMeError("ERR_MODEL_INVALID", `${path}: no adapter`);
        this.#experts = [...this.#experts, name];
      },
      removeExpert: async (name: string) => {
        await this.#change("remove", name);
        this.#experts = this.#experts.filter((one) => one !== name);
      },
    };
    this.engine = parts as unknown as Engine;
  }

  get experts(): readonly string[] {
    return this.#experts;
  }

  /** Ends the change of a name. */
  settle(name: string): void {
    this.pending.find((change) => change.name === name)?.settle();
  }

  /** Fails all changes, and those to come. */
  crash(): void {
    this.#hasFailed = true;
    while (this.pending[0]) this.pending[0].settle(failure());
  }

  /** Has the experts that it was opened with again. */
  restart(): void {
    this.#hasFailed = false;
    this.#experts = this.#initial;
  }

  async #change(kind: Change["kind"], name: string): Promise<void> {
    if (this.#hasFailed) throw failure();
    if (this.pending.some((change) => change.name === name)) throw new Error(`Two changes of ${name} at once`);
    if (this.#experts.includes(name) === (kind === "add")) throw new Error(`Cannot ${kind} ${name}`);
    if (this.isOpen) return;
    await new Promise<void>((resolve, reject) => {
      const change: Change = {
        kind,
        name,
        settle: (error) => {
          this.pending.splice(this.pending.indexOf(change), 1);
          if (error) reject(error);
          else resolve();
        },
      };
      this.pending.push(change);
    });
  }
}

function failure(): ReadMeError {
  return new ReadMeError("ERR_ENGINE_FAILED", "The worker ended");
}
