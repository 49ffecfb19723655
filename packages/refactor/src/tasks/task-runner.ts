// Runs tasks over a store of their results. A result that is missing or damaged is computed anew where it is needed.

import { existsSync } from "node:fs";
import type { ArtefactStore } from "@readme-moe/core";
import type { LayerExperts } from "../experts/select.ts";
import { readArrays, writeArrays, type WorkFolder } from "../job/work-folder.ts";
import { goalOfBatch, runExperts, type Goal, type LayerPass } from "../layers/run-layer.ts";
import type { Batch } from "../layers/token-stream.ts";
import {
  type FitSetting,
  runFit,
  runPool,
  runPass,
  type PassInputs,
  fittedPart,
  joinExperts,
  paperExperts,
  passOf,
} from "./fit-tasks.ts";
import { arrayOf, type Artefact, readStates, layerArtefact, decodeArtefact, encodeArtefact } from "./results.ts";
import { partsOf, taskName, type Task, type FitFamily } from "./task.ts";

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
  return arrayOf(artefact, "costs", "F32");
}

// Results on one machine: in memory, with layers and checkpoints of streams in the work folder.

const STATE_FILE = "state.safetensors";
/** Results that a checkpoint keeps; their names stand before a slash in those of the file's arrays. */
const STATES = /^pass-\d+-\d+\.states$/;
const LAYER = /^layer-(\d+)\.result$/;

export interface LocalStore extends TaskStore {
  /** Writes the streams to disk, so that work can be resumed behind the last layer. */
  readonly saveCheckpoint: () => Promise<void>;
}

/** Opens the store of a work folder, with the streams of its last checkpoint. */
export async function openLocalStore(work: WorkFolder): Promise<LocalStore> {
  const memory = new Map<string, Artefact>();
  const checkpoint = work.file(STATE_FILE);
  for (const [name, values] of existsSync(checkpoint) ? await readArrays(checkpoint) : []) {
    const [state = "", array = ""] = name.split("/");
    memory.set(state, new Map([...(memory.get(state) ?? []), [array, values]]));
  }
  const pathOf = (name: string): string | undefined => {
    const layer = LAYER.exec(name)?.[1];
    return layer === undefined ? undefined : work.layerFile(Number(layer));
  };
  const read = async (name: string): Promise<Artefact | undefined> => {
    const path = pathOf(name);
    if (path === undefined) return memory.get(name);
    return existsSync(path) ? readArrays(path) : undefined;
  };
  return {
    has: async (name) => {
      const path = pathOf(name);
      return path === undefined ? memory.has(name) : existsSync(path);
    },
    read,
    take: async (name) => {
      const artefact = await read(name);
      memory.delete(name);
      return artefact;
    },
    write: async (name, artefact) => {
      const path = pathOf(name);
      if (path === undefined) memory.set(name, artefact);
      else await writeArrays(path, artefact);
    },
    remove: async (name) => void memory.delete(name),
    saveCheckpoint: async () => {
      const states = [...memory].filter(([name]) => STATES.test(name));
      const arrays = states.flatMap(([name, artefact]) =>
        Array.from(artefact, ([array, values]) => [`${name}/${array}`, values] as const),
      );
      await writeArrays(checkpoint, arrays);
    },
  };
}

// Results that machines share: as bytes with a checksum, named by the hash of their plan.

/** Returns the key of a plan. @param plan - its hash, as hex */
export function planKey(plan: string): string {
  return `${plan}.plan`;
}

/** @param plan - its hash, as hex */
export function sharedStore(store: ArtefactStore, plan: string): TaskStore {
  const keyOf = (name: string): string => `${plan}.${name}`;
  const read = async (name: string): Promise<Artefact | undefined> => {
    const bytes = await store.get(keyOf(name));
    return bytes && decodeArtefact(bytes);
  };
  return {
    has: (name) => store.has(keyOf(name)),
    read,
    // Others may need it again: a task that was killed runs once more.
    take: read,
    write: (name, artefact) => store.put(keyOf(name), encodeArtefact(artefact)),
    remove: (name) => store.remove(keyOf(name)),
  };
}

// Puts a layer together: chooses the shared size, and adds what the result is compared with.

/** Readers of a layer's results so far. */
interface LayerInputs {
  readonly parts: () => Promise<Artefact>;
  readonly fit: (family: FitFamily, expert: number, size: number) => Promise<Artefact>;
  readonly states: (shard: number) => Promise<Artefact>;
}

type Experts = ReturnType<typeof joinExperts>;

async function joinLayer(setting: FitSetting, layer: number, inputs: LayerInputs): Promise<Artefact> {
  const { numExperts, numSizes, baselines } = setting.bounds;
  const parts = await inputs.parts();
  const candidates: Experts[] = [];
  for (let size = 0; size < numSizes; size++) {
    const fits: Artefact[] = [];
    for (let expert = 0; expert < numExperts; expert++) fits.push(await inputs.fit("ours", expert, size));
    candidates.push(joinExperts(setting, { parts, fits, size }));
  }
  const ours = await chooseSize(setting, layer, candidates, inputs);
  const families: Record<string, LayerExperts> = { ours };
  const figures: Record<string, readonly number[]> = { ours: ours.relativeErrors };
  if (baselines) {
    const single = joinExperts(setting, { parts: new Map(), fits: [await inputs.fit("static", 0, 0)], size: 0 });
    families["static"] = single;
    figures["static"] = single.relativeErrors;
    families["paper"] = paperExperts(parts);
    const random = [];
    for (let expert = 0; expert < numExperts; expert++) {
      random.push(fittedPart(await inputs.fit("random", expert, 0)));
    }
    families["random"] = { shared: undefined, experts: random };
  }
  return layerArtefact({ families, figures });
}

/** Returns the candidate with the smallest error on the text that is held back. */
async function chooseSize(
  setting: FitSetting,
  layer: number,
  candidates: readonly Experts[],
  inputs: LayerInputs,
): Promise<Experts> {
  const [first] = candidates;
  if (!first) throw new RangeError("Expected `sharedSizes` to have an entry, got none");
  if (candidates.length === 1) return first;
  const sums = candidates.map(() => 0);
  for (const [index, shard] of setting.text.shards.entries()) {
    if (shard.heldBack.size === 0) continue;
    const { fitted, goalRows, goalWeights } = readStates(await inputs.states(index));
    const goal = { rows: goalRows, weights: goalWeights };
    const where = { goal, share: setting.share, batches: shard.heldBack, experts: shard.experts };
    for (const [size, candidate] of candidates.entries()) {
      sums[size]! += await ownErrors(passOf(setting, shard, layer), fitted, candidate, where);
    }
  }
  return candidates[sums.indexOf(Math.min(...sums))] ?? first;
}

/** Text that errors are measured on. */
interface OwnText {
  readonly goal: Goal;
  readonly share: number;
  readonly batches: ReadonlySet<Batch>;
  /** Expert of each of the stream's domains. */
  readonly experts: readonly number[];
}

/** Sums the errors of each domain's own expert over the tokens of some batches of a stream in front of the layer. */
export async function ownErrors(
  pass: LayerPass,
  hidden: Float32Array,
  layer: LayerExperts,
  { goal, share, batches, experts }: OwnText,
): Promise<number> {
  let sum = 0;
  const onErrors = ({ domain }: Batch, errors: Float32Array): void => {
    for (let at = experts[domain] ?? 0; at < errors.length; at += layer.experts.length) sum += errors[at]!;
  };
  const goalOf = (batch: Batch): Goal | undefined =>
    batches.has(batch) ? goalOfBatch(pass.stream, goal, batch) : undefined;
  await runExperts(pass, hidden, layer, { goalOf, share, onErrors });
  return sum;
}
