// What an adapter file says of itself, in the metadata of its safetensors container.

import { ReadMeError } from "@readme-moe/core";
import type { ReadMeSection } from "@readme-moe/model";

/** Value of the container's `format`. */
export const FORMAT = "readme-moe-adapter";
export const FORMAT_VERSION = 1;

/** Tensors of the container besides those of `entries`. */
export const MASKS = "masks"; // U8 [layers, parts, bytes]; parts are the experts, then what they share
export const FREQUENCIES = "frequencies"; // I16 [contexts, symbols]
export const SAMPLES = "base.samples"; // F32 [tensors, samples]
export const SCALES = "scales"; // U8, see `InputScales`; absent where all columns count alike
export const DOCUMENTS = "documents"; // U8: a JSON object of texts by name, compressed by gzip

/** How a tensor of the Read-ME folder is made. */
export type Entry = {
  readonly name: string;
  /** Of the folder's tensor. */
  readonly type: string;
  readonly shape: readonly number[];
} & Coding;

export type Coding =
  /** As in the base model. */
  | { readonly coding: "base" }
  /** As it is in this file. */
  | { readonly coding: "whole" }
  /** The base model's plus coded integers times `step`. */
  | { readonly coding: "steps"; readonly step: number }
  /** The base model's plus a product of two factors; the integers are theirs, one direction after the other. */
  | { readonly coding: "low-rank"; readonly step: number; readonly rank: number };

export interface BaseNote {
  readonly name: string;
  readonly license: string | null;
  readonly sha256: string;
}

export interface AdapterContent {
  readonly base: BaseNote;
  readonly readme: ReadMeSection;
  readonly backbone: readonly Entry[];
  readonly experts: readonly (readonly Entry[])[];
  readonly router: readonly Entry[] | null;
  readonly figures: PackFigures;
  /** CRC-32 of the container's tensors. */
  readonly checksums: Readonly<Record<string, number>>;
}

/** What packing cost. */
export interface PackFigures {
  /** Numbers that differ from the base model's, with the router's. */
  readonly changed_values: number;
  /** Root of the squared errors over the squared changes, by kind of tensor. */
  readonly relative_errors: Readonly<Record<string, number>>;
  /** How many tensors are coded how. */
  readonly codings: Readonly<Record<string, number>>;
}

/** Name in the container of what an entry needs. `file` is `backbone`, `experts/<i>` or `router`. */
export function payloadName(file: string, tensor: string): string {
  return `${file}/${tensor}`;
}

/** Name of the singular values beside it. */
export function sizesName(file: string, tensor: string): string {
  return `${file}/${tensor}/sizes`;
}

/** Entries as short lists: there are thousands. */
function rows(entries: readonly Entry[]): readonly unknown[] {
  return entries.map((entry) => {
    const row = [entry.name, entry.type, entry.shape, entry.coding];
    if (entry.coding === "steps") return [...row, entry.step];
    return entry.coding === "low-rank" ? [...row, entry.step, entry.rank] : row;
  });
}

export function writeContent(content: AdapterContent): string {
  const { backbone, experts, router } = content;
  return JSON.stringify({
    ...content,
    backbone: rows(backbone),
    experts: experts.map(rows),
    router: router && rows(router),
  });
}

/** @throws {ReadMeError} `ERR_FILE_CORRUPT` naming `path` and what is wrong */
export function parseContent(path: string, text: string): AdapterContent {
  const problem = (what: string): ReadMeError => new ReadMeError("ERR_FILE_CORRUPT", `${path}: ${what}`);
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new ReadMeError("ERR_FILE_CORRUPT", `${path}: its description is no JSON`, { cause });
  }
  if (!isObject(json)) throw problem("its description is no object");
  const { base, readme, backbone, experts, router, figures, checksums } = json;
  if (!isObject(base) || !isText(base["name"]) || !isText(base["sha256"]))
    throw problem("does not name its base model");
  if (!isObject(readme) || !isObject(figures) || !isObject(checksums)) throw problem("lacks part of its description");
  if (!Array.isArray(experts) || experts.length === 0) throw problem("has no experts");
  const entries = (file: string, list: unknown): readonly Entry[] => {
    if (!Array.isArray(list)) throw problem(`has no list of the tensors of ${file}`);
    return list.map((row: unknown, index) => {
      const entry = Array.isArray(row) ? entryOf(row) : undefined;
      if (entry) return entry;
      const name = Array.isArray(row) && isText(row[0]) ? JSON.stringify(row[0].slice(0, 200)) : `${index}`;
      throw problem(`${file}: tensor ${name} is described wrongly`);
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
  if (!isText(name) || !isText(type) || !Array.isArray(shape) || shape.length > 2) return undefined;
  if (!shape.every((size) => Number.isInteger(size) && size > 0 && size < 2 ** 31)) return undefined;
  const head = { name, type, shape: shape as readonly number[] };
  if (coding === "base" || coding === "whole") return { ...head, coding };
  if (typeof step !== "number" || !(step > 0) || !Number.isFinite(step)) return undefined;
  if (coding === "steps") return { ...head, coding, step };
  const isRank = Number.isInteger(rank) && (rank as number) > 0 && (rank as number) <= MAX_RANK && shape.length === 2;
  return coding === "low-rank" && isRank ? { ...head, coding, step, rank: rank as number } : undefined;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isText(value: unknown): value is string {
  return typeof value === "string" && value !== "";
}
