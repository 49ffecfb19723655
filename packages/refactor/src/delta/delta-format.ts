// The delta file format: a model as differences from its base model, in a safetensors container. The container's
// metadata hold the description that this file reads and writes.

import { createHash } from "node:crypto";
import { ReadMeError } from "@readme-moe/core";
import type { ReadMeSection } from "@readme-moe/model";

/** Value of the container's `format`. */
export const FORMAT = "readme-moe-adapter";
const FORMAT_VERSION = 1;

/** Names of the container's tensors that belong to no entry. */
export const MASKS = "masks"; // U8 [layers, parts, bytes]; the experts' parts, then the shared one
export const FREQUENCIES = "frequencies"; // I16 [contexts, symbols]
export const SAMPLES = "base.samples"; // F32 [tensors, samples]
export const SCALES = "scales"; // U8, see `InputScales`; absent where all columns count alike
export const DOCUMENTS = "documents"; // U8: a JSON object of texts by name, compressed by gzip

/** Files that a delta file may put into a model folder besides weights and config. */
export const DOCUMENT_NAME: RegExp = /^(README\.md|report\.json|pictures\/[a-z\d-]{1,64}\.svg)$/;
export const MAX_DOCUMENT_BYTES: number = 16 << 20;

/** Texts by file name. */
export type Documents = Readonly<Record<string, string>>;

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
  return { format: FORMAT, version: `${FORMAT_VERSION}`, content: text, sha256: sha256(text) };
}

/**
 * Reads the description out of a container's metadata.
 *
 * @throws {ReadMeError} `ERR_FILE_CORRUPT` naming `path` and the fault; `ERR_MODEL_UNSUPPORTED` for another format
 *   or version
 */
export function parseMetadata(path: string, metadata: ReadonlyMap<string, string>): DeltaContent {
  if (metadata.get("format") !== FORMAT) throw new ReadMeError("ERR_MODEL_UNSUPPORTED", `${path}: is not a delta file`);
  if (metadata.get("version") !== `${FORMAT_VERSION}`) {
    const message = `${path}: has another version of the format; the supported version is ${FORMAT_VERSION}`;
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
  if (!isObject(json)) throw problem("its description is not an object");
  const { base, readme, backbone, experts, router, figures, checksums } = json;
  if (!isObject(base) || !isText(base["name"]) || !isText(base["sha256"])) {
    throw problem("does not name its base model");
  }
  if (!isObject(readme) || !isObject(figures) || !isObject(checksums)) throw problem("lacks part of its description");
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

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isText(value: unknown): value is string {
  return typeof value === "string" && value !== "";
}

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}
