// Unfinished work on disk, so that a killed job resumes where it was, and the folder that a finished job becomes.

import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, readdir, rename, rm } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { readTextFile, SafetensorsFile, writeFileAtomically, writeSafetensors } from "@readme-moe/model";
import type { LayerExperts, Part } from "../experts/select.ts";
import {
  type Artefact,
  type FittedFamilies,
  readExperts,
  readLayer,
  readPart,
  type TypeName,
  typeOf,
  TYPES,
  type Values,
} from "../tasks/results.ts";
import type { DomainText } from "./prepare-domain.ts";

const JOB_FILE = "job.json";
const MAX_JOB_BYTES = 16 << 20;

/** Everything that the result of a job depends on. */
interface JobSettings {
  readonly options: object;
  readonly texts: readonly DomainText[];
  /** Fingerprints of the models. */
  readonly model?: string;
  readonly models?: readonly string[];
}

export class WorkFolder {
  readonly path: string;

  private constructor(path: string) {
    this.path = path;
  }

  /**
   * Opens the work folder of `out`. Unfinished work of another job is refused.
   *
   * @throws {ReadMeError} `ERR_WRITE_FAILED` when unfinished work exists and is of another job or not to be resumed
   */
  static async open(out: string, { texts, ...job }: JobSettings, resume: boolean | undefined): Promise<WorkFolder> {
    const path = `${resolve(out)}.unfinished`;
    const { options, ...models } = job;
    const text = JSON.stringify({ options, texts: hashOf(texts), ...models }, undefined, 2);
    const found = existsSync(path) ? await readTextFile(join(path, JOB_FILE), MAX_JOB_BYTES) : undefined;
    if (found !== undefined && (!resume || found !== text)) {
      const remedy = `remove it${found === text ? ", or resume" : ""}`;
      const difference = found === text ? "" : " of a job with other data, options or models";
      throw new ReadMeError("ERR_WRITE_FAILED", `${path}: holds unfinished work${difference}; ${remedy}`);
    }
    await mkdir(path, { recursive: true });
    if (found === undefined) await writeFileAtomically(join(path, JOB_FILE), text);
    return new WorkFolder(path);
  }

  file(name: string): string {
    return join(this.path, name);
  }

  layerFile(index: number): string {
    return this.file(`layer-${index}.safetensors`);
  }

  /** Removes a file or folder, if it exists. */
  async clear(name: string): Promise<void> {
    await rm(this.file(name), { recursive: true, force: true });
  }

  async remove(): Promise<void> {
    await rm(this.path, { recursive: true, force: true });
  }
}

function hashOf(value: unknown): string {
  return createHash("sha256").update(JSON.stringify(value)).digest("hex");
}

/** Float32 arrays by name. */
export type NamedArrays = Iterable<readonly [name: string, values: Float32Array]>;

/** Writes arrays and metadata to one file, whole or not at all. */
export async function writeArrays(
  path: string,
  arrays: Iterable<readonly [name: string, values: Values]>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  const tensors = Array.from(arrays, ([name, values]) => ({
    name,
    type: typeOf(values),
    shape: [values.length],
    bytes: async () => new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
  }));
  await writeSafetensors(path, tensors, metadata);
}

/** Reads arrays of a file of `writeArrays`. @param isWanted - by name @default all */
export function readArrays(path: string, isWanted: (name: string) => boolean = () => true): Promise<Artefact> {
  return withFile(path, async (file) => {
    const arrays = new Map<string, Values>();
    for (const name of file.names.filter(isWanted)) {
      const { buffer } = await file.readBytes(name);
      arrays.set(name, new TYPES[file.info(name).type as TypeName](buffer as ArrayBuffer));
    }
    return arrays;
  });
}

/**
 * Opens a safetensors file for `use`.
 *
 * @throws {ReadMeError} when there is no such file, or it is damaged
 */
export async function withFile<Result>(
  path: string,
  use: (file: SafetensorsFile) => Promise<Result> | Result,
): Promise<Result> {
  const file = await SafetensorsFile.open(path);
  try {
    return await use(file);
  } finally {
    await file.close();
  }
}

/**
 * Fills arrays from a file of `writeArrays`.
 *
 * @throws {RangeError} when one is missing or of another length
 */
export async function restoreArrays(file: SafetensorsFile, arrays: NamedArrays): Promise<void> {
  for (const [name, values] of arrays) {
    const kept = file.has(name) ? await file.readFloats(name) : undefined;
    if (kept?.length !== values.length) {
      const found = kept?.length ?? "none";
      throw new RangeError(`Expected unfinished work to hold ${values.length} values of ${name}, got ${found}`);
    }
    values.set(kept);
  }
}

/** @throws {ReadMeError} `ERR_WRITE_FAILED` unless `path` can be created or is an empty folder */
export async function refuseOccupied(path: string): Promise<void> {
  const names = await readdir(path).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === "ENOENT") return [];
    throw new ReadMeError("ERR_WRITE_FAILED", `${path}: is not a folder that a model can be written to`, { cause });
  });
  if (names.length === 0) return;
  throw new ReadMeError("ERR_WRITE_FAILED", `${path}: is not empty; name a folder that does not exist yet`);
}

/**
 * Adds `documents` to a finished folder and moves it to `out`.
 *
 * @param documents - by file name, which may contain folders
 * @throws {ReadMeError} `ERR_WRITE_FAILED`
 */
export async function finishFolder(
  folder: string,
  out: string,
  documents: Readonly<Record<string, string>>,
): Promise<void> {
  for (const [name, text] of Object.entries(documents)) {
    await mkdir(dirname(join(folder, name)), { recursive: true });
    await writeFileAtomically(join(folder, name), text);
  }
  await refuseOccupied(out);
  try {
    await rm(out, { recursive: true, force: true }); // an empty folder, see above
    await rename(folder, resolve(out));
  } catch (cause) {
    throw new ReadMeError("ERR_WRITE_FAILED", `${out}: cannot be written; the model is in ${folder}`, { cause });
  }
}

// Results of layers as files of the work folder, which hold all families of experts that a report compares.

/** Figures of a layer for the report, by name. */
export type LayerFigures = FittedFamilies["figures"];

/** Numbers of neurons of a layer's parts. */
export interface LayerSizes {
  readonly expertSize: number;
  /** 0 for none. */
  readonly sharedSize: number;
}

export async function readFamily(path: string, family: string): Promise<LayerExperts> {
  return readExperts(await readArrays(path, (name) => name.startsWith(`${family}.`)), family);
}

/** Reads a single part of a family. @throws {TypeError} when there is none */
export async function readOnePart(path: string, family: string, which: number | "shared"): Promise<Part> {
  const prefix = `${family}.${which}`;
  const part = readPart(await readArrays(path, (name) => name.startsWith(`${prefix}.`)), prefix);
  if (part) return part;
  throw new TypeError(`Expected ${path} to have a part ${prefix}, got none`);
}

export function readSizes(path: string, family: string): Promise<LayerSizes> {
  return withFile(path, (file) => {
    const sizeOf = (part: string): number => {
      const name = `${family}.${part}.neurons`;
      return file.has(name) ? (file.info(name).shape[0] ?? 0) : 0;
    };
    return { expertSize: sizeOf("0"), sharedSize: sizeOf("shared") };
  });
}

export async function readFigures(path: string): Promise<LayerFigures> {
  return readLayer(await readArrays(path, (name) => name.endsWith(".figures"))).figures;
}
