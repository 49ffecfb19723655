// Runs tasks over a store of their results. A result that is missing or damaged is computed anew where it is needed.

import { arrayOf, type Artefact } from "./artefact.ts";
import type { FitSetting } from "./fit-setting.ts";
import { runFit, runPool } from "./fit-tasks.ts";
import { joinLayer } from "./join-layer.ts";
import { readStates } from "./results.ts";
import { runPass, type PassInputs } from "./run-pass.ts";
import { partsOf, taskName, type Task } from "./task.ts";

/** Results of tasks, by names of `resultName`. */
export interface TaskStore {
  readonly has: (name: string) => Promise<boolean>;
  /** Reads a result; nothing when it is missing or damaged. */
  readonly read: (name: string) => Promise<Artefact | undefined>;
  /** Reads a result whose arrays the reader overwrites; the store may forget it. */
  readonly take: (name: string) => Promise<Artefact | undefined>;
  readonly write: (name: string, artefact: Artefact) => Promise<void>;
  readonly remove: (name: string) => Promise<void>;
}

/** Names a part of a task's result. */
export function resultName(task: Task, part: string): string {
  return `${taskName(task)}.${part}`;
}

const RESULT = "result";

export class TaskRunner {
  readonly #setting: FitSetting;
  readonly #store: TaskStore;

  constructor(setting: FitSetting, store: TaskStore) {
    this.#setting = setting;
    this.#store = store;
  }

  /** Tells whether the result of a task is stored. */
  async isDone(task: Task): Promise<boolean> {
    const parts = partsOf(task, this.#setting.bounds);
    return this.#store.has(resultName(task, parts.at(-1) ?? RESULT));
  }

  /** Runs a task, unless its result is stored. */
  async run(task: Task): Promise<void> {
    if (await this.isDone(task)) return;
    const results = await this.#compute(task);
    for (const part of partsOf(task, this.#setting.bounds)) await this.#write(task, part, results);
  }

  /** Reads a part of a task's result; runs the task if there is none, or a damaged one. */
  async read(task: Task, part: string = RESULT): Promise<Artefact> {
    return (await this.#store.read(resultName(task, part))) ?? this.#make(task, part);
  }

  /** Reads a part whose arrays are overwritten. */
  async #take(task: Task, part: string): Promise<Artefact> {
    const name = resultName(task, part);
    const found = await this.#store.take(name);
    if (found) return found;
    const made = await this.#make(task, part);
    return (await this.#store.take(name)) ?? made;
  }

  /** Removes the result of a task, or one part of it. */
  async remove(task: Task, only?: string): Promise<void> {
    const parts = only === undefined ? partsOf(task, this.#setting.bounds) : [only];
    for (const part of parts) await this.#store.remove(resultName(task, part));
  }

  async #make(task: Task, part: string): Promise<Artefact> {
    // Other parts are left as they are: what was removed on purpose would fill the store again.
    return this.#write(task, part, await this.#compute(task));
  }

  async #write(task: Task, part: string, results: ReadonlyMap<string, Artefact>): Promise<Artefact> {
    const result = results.get(part);
    if (!result) throw new TypeError(`Expected the task ${taskName(task)} to have a part \`${part}\`, got none`);
    await this.#store.write(resultName(task, part), result);
    return result;
  }

  async #compute(task: Task): Promise<ReadonlyMap<string, Artefact>> {
    const setting = this.#setting;
    setting.run.signal?.throwIfAborted();
    if (task.kind === "pass") return runPass(setting, task, () => this.#passInputs(task));
    if (task.kind === "pool") {
      return runPool(setting, task.layer, (shard) =>
        this.#take({ kind: "pass", layer: task.layer, shard }, "statistics"),
      );
    }
    return new Map([[RESULT, await this.#computeOne(task)]]);
  }

  /** Computes a task whose result has one part. */
  #computeOne(task: Exclude<Task, { readonly kind: "pass" | "pool" }>): Promise<Artefact> {
    if (task.kind === "costs") return this.#joinCosts();
    const { layer } = task;
    if (task.kind === "layer") return this.#joinLayer(layer);
    return runFit(this.#setting, task, (part) => this.read({ kind: "pool", layer }, part));
  }

  async #passInputs({ layer, shard }: { readonly layer: number; readonly shard: number }): Promise<PassInputs> {
    const before = layer - 1;
    return {
      layer: await this.read({ kind: "layer", layer: before }),
      states: await this.#take({ kind: "pass", layer: before, shard }, "states"),
    };
  }

  #joinLayer(layer: number): Promise<Artefact> {
    return joinLayer(this.#setting, layer, {
      parts: () => this.read({ kind: "pool", layer }, "parts"),
      fit: (family, expert, size) => this.read({ kind: "fit", layer, family, expert, size }),
      states: (shard) => this.read({ kind: "pass", layer, shard }, "states"),
    });
  }

  /** Joins the costs of all shards, `[tokens, experts]`. */
  async #joinCosts(): Promise<Artefact> {
    const { bounds, text } = this.#setting;
    const costs = new Float32Array(text.stream.numTokens * bounds.numExperts);
    let at = 0;
    for (let shard = 0; shard < bounds.numShards; shard++) {
      const own = readStates(await this.read({ kind: "pass", layer: bounds.numLayers, shard }, "states")).costs;
      costs.set(own, at);
      at += own.length;
    }
    return new Map([["costs", costs]]);
  }
}

/** Reads the result of the last task. */
export function readCosts(artefact: Artefact): Float32Array {
  return arrayOf(artefact, "costs", "f32");
}
