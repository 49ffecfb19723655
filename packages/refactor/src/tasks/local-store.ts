// Results on one machine: in memory, with layers and checkpoints of streams in the work folder.

import { existsSync } from "node:fs";
import { readFamilies, writeLayerFile } from "../job/layer-file.ts";
import { withFile, writeArrays, type WorkFolder } from "../job/work-folder.ts";
import type { Artefact } from "./artefact.ts";
import { FAMILIES, layerArtefact, readLayer } from "./results.ts";
import type { TaskStore } from "./task-runner.ts";

const STATE_FILE = "state.safetensors";
/** Results that a checkpoint keeps; their names stand before a slash in those of the file's arrays. */
const STATES = /^pass-\d+-\d+\.states$/;
const LAYER = /^layer-(\d+)\.result$/;

export class LocalStore implements TaskStore {
  readonly #work: WorkFolder;
  readonly #memory = new Map<string, Artefact>();

  private constructor(work: WorkFolder) {
    this.#work = work;
  }

  /** Opens the store of a work folder, with the streams of its last checkpoint. */
  static async open(work: WorkFolder): Promise<LocalStore> {
    const store = new LocalStore(work);
    const path = work.file(STATE_FILE);
    if (existsSync(path)) await store.#restore(path);
    return store;
  }

  has = async (name: string): Promise<boolean> => {
    const layer = layerIndex(name);
    return layer === undefined ? this.#memory.has(name) : existsSync(this.#work.layerFile(layer));
  };

  read = async (name: string): Promise<Artefact | undefined> => {
    const layer = layerIndex(name);
    if (layer === undefined) return this.#memory.get(name);
    const path = this.#work.layerFile(layer);
    return existsSync(path) ? layerArtefact(await readFamilies(path, FAMILIES)) : undefined;
  };

  take = async (name: string): Promise<Artefact | undefined> => {
    const artefact = await this.read(name);
    this.#memory.delete(name);
    return artefact;
  };

  write = async (name: string, artefact: Artefact): Promise<void> => {
    const layer = layerIndex(name);
    if (layer === undefined) this.#memory.set(name, artefact);
    else await writeLayer(this.#work, layer, artefact);
  };

  remove = async (name: string): Promise<void> => {
    this.#memory.delete(name);
  };

  /** Writes the streams to disk, so that work can be resumed behind the last layer. */
  async saveCheckpoint(): Promise<void> {
    const states = [...this.#memory].filter(([name]) => STATES.test(name));
    const arrays = states.flatMap(([name, artefact]) =>
      Array.from(artefact, ([array, values]) => [`${name}/${array}`, values as Float32Array] as const),
    );
    await writeArrays(this.#work.file(STATE_FILE), arrays);
  }

  async #restore(path: string): Promise<void> {
    await withFile(path, async (file) => {
      for (const name of file.names) {
        const [state = "", array = ""] = name.split("/");
        const known = this.#memory.get(state);
        this.#memory.set(state, new Map([...(known ?? []), [array, await file.readFloats(name)]]));
      }
    });
  }
}

/** Keeps a layer in the work folder, where the stages after the fit read it. */
export async function writeLayer(work: WorkFolder, index: number, artefact: Artefact): Promise<void> {
  const { families, figures } = readLayer(artefact);
  await writeLayerFile(work.layerFile(index), families, figures);
}

function layerIndex(name: string): number | undefined {
  const index = LAYER.exec(name)?.[1];
  return index === undefined ? undefined : Number(index);
}
