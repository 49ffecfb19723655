// Results that machines share: as bytes with a checksum, named by the hash of their plan.

import type { ArtefactStore } from "@readme-moe/core";
import { decodeArtefact, encodeArtefact, type Artefact } from "./artefact.ts";
import type { TaskStore } from "./task-runner.ts";

/** Returns the key of a plan. @param plan - its hash, as hex */
export function planKey(plan: string): string {
  return `${plan}.plan`;
}

export class SharedStore implements TaskStore {
  readonly #store: ArtefactStore;
  readonly #plan: string;

  constructor(store: ArtefactStore, plan: string) {
    this.#store = store;
    this.#plan = plan;
  }

  has = (name: string): Promise<boolean> => this.#store.has(this.#key(name));

  read = async (name: string): Promise<Artefact | undefined> => {
    const bytes = await this.#store.get(this.#key(name));
    return bytes && decodeArtefact(bytes);
  };

  // Others may need it again: a task that was killed runs once more.
  take = (name: string): Promise<Artefact | undefined> => this.read(name);

  write = (name: string, artefact: Artefact): Promise<void> =>
    this.#store.put(this.#key(name), encodeArtefact(artefact));

  remove = (name: string): Promise<void> => this.#store.remove(this.#key(name));

  #key(name: string): string {
    return `${this.#plan}.${name}`;
  }
}
