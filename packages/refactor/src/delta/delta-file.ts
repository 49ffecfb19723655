// The delta file: a model as differences from its base model, in a safetensors container whose metadata describe it.
// The description is checked when the file is opened, a tensor when it is read.

import { createHash } from "node:crypto";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { crc32, gunzipSync } from "node:zlib";
import { isRecord, ReadMeError } from "@readme-moe/core";
import { readTextFile, SafetensorsFile, type ReadMeSection } from "@readme-moe/model";
import type { BasePrint } from "./base-model.ts";
import { scaleShape, type InputScales, type ScaleSizes } from "./input-scales.ts";
import { maskBytes, neuronsOf, type PartId } from "./neurons.ts";

/** Value of the container's `format`. */
export const FORMAT = "readme-moe-adapter";
const FORMAT_VERSION = "2";

/** Names of the container's tensors that belong to no entry. */
export const MASKS = "masks"; // U8 [layers, parts, bytes]; the experts' parts, then the shared one
export const SAMPLES = "base.samples"; // F32 [tensors, samples]
export const SCALES = "scales"; // U8, see `InputScales`; absent where all columns count alike
export const DOCUMENTS = "documents"; // U8: a JSON object of texts by name, compressed by gzip

/** Files that a delta file may put into a model folder besides weights and config. */
const DOCUMENT_NAME = /^(README\.md|report\.json|pictures\/[a-z\d-]{1,64}\.svg)$/;
const MAX_DOCUMENT_BYTES = 16 << 20;

/** Texts by file name. */
export type Documents = Readonly<Record<string, string>>;

/** Reads the report, the card and the pictures of a Read-ME model. */
export async function readDocuments(folder: string): Promise<Documents> {
  const pictures: readonly string[] = await readdir(join(folder, "pictures")).catch(() => []);
  const names = ["README.md", "report.json", ...pictures.toSorted().map((name) => `pictures/${name}`)];
  const documents: Record<string, string> = {};
  for (const name of names.filter((one) => DOCUMENT_NAME.test(one))) {
    const text = await readTextFile(join(folder, name), MAX_DOCUMENT_BYTES);
    if (text !== undefined) documents[name] = text;
  }
  return documents;
}

/** A tensor of the Read-ME folder, and how it is made. */
export type Entry = { readonly name: string; readonly type: string; readonly shape: readonly number[] } & Coding;

export type Coding =
  /** Equal to the base model's tensor. */
  | { readonly coding: "base" }
  /** Stored unchanged in the delta file. */
  | { readonly coding: "whole" }
  | IntegerCoding;

export type IntegerCoding =
  /** The base model's tensor plus coded integers times `step`. */
  | { readonly coding: "steps"; readonly step: number }
  /** The base model's tensor plus a product of two factors, whose integers are coded one direction after the other. */
  | { readonly coding: "low-rank"; readonly step: number; readonly rank: number };

export interface BaseNote {
  readonly name: string;
  readonly license: string | null;
  readonly sha256: string;
}

export interface DeltaContent {
  readonly base: BaseNote;
  readonly readme: ReadMeSection;
  readonly backbone: readonly Entry[];
  readonly experts: readonly (readonly Entry[])[];
  readonly router: readonly Entry[] | null;
  readonly figures: PackFigures;
  /** CRC-32 of the container's tensors. */
  readonly checksums: Readonly<Record<string, number>>;
}

/** Amount that a delta file changes, and the share that packing lost. */
export interface PackFigures {
  /** Number of values that differ from the base model's, including the router's. */
  readonly changed_values: number;
  /** Root of the squared errors over the squared changes, by kind of tensor. */
  readonly relative_errors: Readonly<Record<string, number>>;
  /** Number of tensors by coding. */
  readonly codings: Readonly<Record<string, number>>;
}

/** Names the container's tensor with an entry's data. `file` is `backbone`, `experts/<i>` or `router`. */
export function payloadName(file: string, tensor: string): string {
  return `${file}/${tensor}`;
}

/** Names the container's tensor with the singular values of an entry coded as `low-rank`. */
export function sizesName(file: string, tensor: string): string {
  return `${file}/${tensor}/sizes`;
}

/** Multiplies the sizes of a shape. */
export function countOf(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/** Writes an entry as a short list: there are thousands. */
export function entryRow(entry: Entry): readonly unknown[] {
  const row = [entry.name, entry.type, entry.shape, entry.coding];
  if (entry.coding === "steps") return [...row, entry.step];
  return entry.coding === "low-rank" ? [...row, entry.step, entry.rank] : row;
}

/** Writes the container's metadata. */
export function writeMetadata(content: DeltaContent): Readonly<Record<string, string>> {
  const { backbone, experts, router } = content;
  const lists = {
    backbone: backbone.map(entryRow),
    experts: experts.map((entries) => entries.map(entryRow)),
    router: router && router.map(entryRow),
  };
  const text = JSON.stringify({ ...content, ...lists });
  return { format: FORMAT, version: FORMAT_VERSION, content: text, sha256: sha256(text) };
}

/**
 * Reads the description out of a container's metadata.
 *
 * @throws {ReadMeError} `ERR_FILE_CORRUPT` naming `path` and the fault; `ERR_MODEL_UNSUPPORTED` for another format
 *   or version
 */
function parseMetadata(path: string, metadata: ReadonlyMap<string, string>): DeltaContent {
  if (metadata.get("format") !== FORMAT) throw new ReadMeError("ERR_MODEL_UNSUPPORTED", `${path}: is not a delta file`);
  const version = metadata.get("version");
  if (version !== FORMAT_VERSION) {
    const message =
      `${path}: is a delta file of version ${JSON.stringify(version?.slice(0, 20))}, and this release reads version ` +
      `${FORMAT_VERSION}; pack its model again with this release, or apply it with the release that packed it`;
    throw new ReadMeError("ERR_MODEL_UNSUPPORTED", message);
  }
  const problem = (what: string, cause?: unknown): ReadMeError =>
    new ReadMeError("ERR_FILE_CORRUPT", `${path}: ${what}`, { cause });
  const text = metadata.get("content") ?? "";
  if (metadata.get("sha256") !== sha256(text)) throw problem("is damaged: its description does not match its hash");
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw problem("its description is not JSON", cause);
  }
  if (!isRecord(json)) throw problem("its description is not an object");
  const { base, readme, backbone, experts, router, figures, checksums } = json;
  if (!isRecord(base) || !isText(base["name"]) || !isText(base["sha256"])) {
    throw problem("does not name its base model");
  }
  if (!isRecord(readme) || !isRecord(figures) || !isRecord(checksums)) throw problem("lacks part of its description");
  if (!Array.isArray(experts) || experts.length === 0) throw problem("has no experts");
  const entries = (file: string, list: unknown): readonly Entry[] => {
    if (!Array.isArray(list)) throw problem(`has no list of the tensors of ${file}`);
    return list.map((row: unknown, index) => {
      const entry = Array.isArray(row) ? entryOf(row) : undefined;
      if (entry) return entry;
      const name = Array.isArray(row) && isText(row[0]) ? JSON.stringify(row[0].slice(0, 200)) : `${index}`;
      throw problem(`${file}: the description of tensor ${name} is invalid`);
    });
  };
  return {
    base: { name: base["name"], license: isText(base["license"]) ? base["license"] : null, sha256: base["sha256"] },
    readme: readme as unknown as ReadMeSection,
    backbone: entries("backbone", backbone),
    experts: experts.map((list, expert) => entries(`experts/${expert}`, list)),
    router: router === null ? null : entries("router", router),
    figures: figures as unknown as PackFigures,
    checksums: checksums as Readonly<Record<string, number>>,
  };
}

const MAX_RANK = 4096;

function entryOf([name, type, shape, coding, step, rank]: readonly unknown[]): Entry | undefined {
  if (!isText(name) || !isText(type) || !isShape(shape)) return undefined;
  const head = { name, type, shape };
  if (coding === "base" || coding === "whole") return { ...head, coding };
  if (typeof step !== "number" || !(step > 0) || !Number.isFinite(step)) return undefined;
  if (coding === "steps") return { ...head, coding, step };
  const isCoded = coding === "low-rank" && shape.length === 2;
  return isCoded && isSize(rank) && rank <= MAX_RANK ? { ...head, coding, step, rank } : undefined;
}

function isShape(value: unknown): value is readonly number[] {
  return Array.isArray(value) && value.length <= 2 && value.every(isSize);
}

function isSize(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value > 0 && value < 2 ** 31;
}

function isText(value: unknown): value is string {
  return typeof value === "string" && value !== "";
}

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}

/** Sizes that masks have to fit. `expert` and `shared` are neurons per part, by layer. */
export interface PartSizes {
  readonly numLayers: number;
  readonly denseSize: number;
  readonly expert: (layer: number) => number;
  readonly shared: (layer: number) => number;
}

/** A delta file. Every failure is a `ReadMeError` that names the file and, where one is at fault, the tensor. */
export class DeltaFile {
  readonly path: string;
  readonly content: DeltaContent;
  readonly #file: SafetensorsFile;

  private constructor(file: SafetensorsFile, content: DeltaContent) {
    this.path = file.path;
    this.content = content;
    this.#file = file;
  }

  /** @throws {ReadMeError} `ERR_FILE_CORRUPT`; `ERR_MODEL_UNSUPPORTED` for another format or version */
  static async open(path: string): Promise<DeltaFile> {
    const file = await SafetensorsFile.open(path);
    try {
      return new DeltaFile(file, parseMetadata(path, file.metadata));
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** Reads a tensor's bytes and compares them with their checksum. */
  async read(name: string): Promise<Uint8Array> {
    const bytes = await this.#file.readBytes(name);
    if (crc32(bytes) !== this.content.checksums[name]) throw this.problem(name, "is damaged");
    return bytes;
  }

  /** Checks the type and, where it is given, the shape of a tensor. */
  checkInfo(name: string, type: string, shape?: readonly number[]): void {
    const found = this.#file.info(name);
    if (found.type === type && (!shape || found.shape.join() === shape.join())) return;
    const wanted = shape ? `[${shape.join(", ")}] of ${type}` : type;
    throw this.problem(name, `has shape [${found.shape.join(", ")}] of ${found.type}, not ${wanted}`);
  }

  /** Reads every tensor once. */
  async check(): Promise<void> {
    for (const name of this.#file.names) await this.read(name);
  }

  async floats(name: string): Promise<Float32Array> {
    this.checkInfo(name, "F32");
    const bytes = await this.read(name);
    return new Float32Array(bytes.buffer, 0, bytes.byteLength / 4);
  }

  async basePrint(): Promise<BasePrint> {
    return { sha256: this.content.base.sha256, samples: await this.floats(SAMPLES) };
  }

  /** @returns `undefined` where the file has no scales */
  async scales(sizes: ScaleSizes): Promise<InputScales | undefined> {
    if (!this.#file.names.includes(SCALES)) return undefined;
    this.checkInfo(SCALES, "U8", scaleShape(sizes));
    return { codes: await this.read(SCALES), sizes };
  }

  /** Reads the neurons of each part, by layer. */
  async neurons(sizes: PartSizes): Promise<readonly ReadonlyMap<PartId, Int32Array>[]> {
    const { numLayers, denseSize } = sizes;
    const [numParts, width] = [this.content.experts.length + 1, maskBytes(denseSize)];
    this.checkInfo(MASKS, "U8", [numLayers, numParts, width]);
    const masks = await this.read(MASKS);
    return Array.from({ length: numLayers }, (_, layer) => {
      const found = new Map<PartId, Int32Array>();
      for (let part = 0; part < numParts; part++) {
        const from = (layer * numParts + part) * width;
        const isShared = part === numParts - 1;
        const size = isShared ? sizes.shared(layer) : sizes.expert(layer);
        const neurons = neuronsOf(masks.subarray(from, from + width), denseSize, size);
        if (!neurons) throw this.problem(MASKS, `does not name ${size} neurons of layer ${layer}`);
        found.set(isShared ? "shared" : part, neurons);
      }
      return found;
    });
  }

  async documents(): Promise<Documents> {
    const documents = unpackDocuments(await this.read(DOCUMENTS));
    if (!documents) throw this.problem(DOCUMENTS, "holds no documents");
    return documents;
  }

  problem(tensor: string, what: string): ReadMeError {
    return new ReadMeError("ERR_FILE_CORRUPT", `${this.path}: tensor ${JSON.stringify(tensor)} ${what}`);
  }

  async close(): Promise<void> {
    await this.#file.close();
  }
}

function unpackDocuments(bytes: Uint8Array): Documents | undefined {
  try {
    const maxOutputLength = 4 * MAX_DOCUMENT_BYTES;
    const json: unknown = JSON.parse(gunzipSync(bytes, { maxOutputLength }).toString("utf8"));
    return isDocuments(json) ? json : undefined;
  } catch {
    return undefined;
  }
}

function isDocuments(json: unknown): json is Documents {
  if (!isRecord(json)) return false;
  return Object.entries(json).every(([name, text]) => DOCUMENT_NAME.test(name) && typeof text === "string");
}
