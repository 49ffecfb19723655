// What a refactoring has done so far, on disk, so that it goes on where it was when its process is gone.

import { mkdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { readTextFile, SafetensorsFile, writeFileAtomically, writeSafetensors } from "@readme-moe/model";

const JOB_FILE = "job.json";
const STATE_FILE = "state.safetensors";

/** Large arrays between two layers, by name. */
export type Streams = Readonly<Record<string, Float32Array>>;

export class WorkFolder {
  readonly path: string;

  private constructor(path: string) {
    this.path = path;
  }

  /**
   * @param job - everything that results depend on; unfinished work of another job is not gone on with
   * @throws {ReadMeError} `ERR_WRITE_FAILED` when there is unfinished work that is not to be resumed, or is of another job
   */
  static async open(path: string, job: unknown, { resume }: { readonly resume: boolean }): Promise<WorkFolder> {
    const text = JSON.stringify(job, undefined, 2);
    const found = (await isThere(path)) ? await readTextFile(join(path, JOB_FILE), 16 << 20) : undefined;
    if (found !== undefined && (!resume || found !== text)) {
      const remedy = `remove it${found === text ? ", or resume" : ""}`;
      const whose = found === text ? "" : ", of other data, options or another model";
      throw new ReadMeError("ERR_WRITE_FAILED", `${path}: holds unfinished work${whose}; ${remedy}`);
    }
    await mkdir(path, { recursive: true });
    if (found === undefined) await writeFileAtomically(join(path, JOB_FILE), text);
    return new WorkFolder(path);
  }

  layerFile(index: number): string {
    return join(this.path, `layer-${index}.safetensors`);
  }

  file(name: string): string {
    return join(this.path, name);
  }

  /** Keeps `streams` as they are before layer `nextLayer`, in place of what was kept before. */
  async saveStreams(nextLayer: number, streams: Streams): Promise<void> {
    const tensors = Object.entries(streams).map(([name, values]) => ({
      name,
      type: "F32" as const,
      shape: [values.length],
      bytes: async () => new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
    }));
    await writeSafetensors(join(this.path, STATE_FILE), tensors, { nextLayer: `${nextLayer}` });
  }

  /** Fills `streams` with what was kept. @returns the layer to go on with; 0 when nothing was kept */
  async loadStreams(streams: Streams): Promise<number> {
    const path = join(this.path, STATE_FILE);
    if (!(await isThere(path))) return 0;
    const file = await SafetensorsFile.open(path);
    try {
      for (const [name, values] of Object.entries(streams)) values.set(await file.readFloats(name));
      return Number(file.metadata.get("nextLayer"));
    } finally {
      await file.close();
    }
  }

  /** Removes a file or folder in it, where there is one. */
  async clear(name: string): Promise<void> {
    await rm(join(this.path, name), { recursive: true, force: true });
  }

  async remove(): Promise<void> {
    await rm(this.path, { recursive: true, force: true });
  }
}

function isThere(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}
