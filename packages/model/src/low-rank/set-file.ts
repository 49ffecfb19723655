// The file read-me-experts.json: names and folders of low-rank experts, and the config of their router.

import { join } from "node:path";
import { Fields, MOST } from "../config/fields.ts";
import { quoted } from "../files/errors.ts";
import { type JsonObject, readJsonFile } from "../files/read-file.ts";
import { expertNameProblem } from "./low-rank-expert.ts";
import { MAX_EXPERTS, SET_FILE } from "./low-rank-set.ts";

/** Version of the layout that this code reads and writes. */
export const SET_VERSION = 1;

const MAX_BYTES = 16 << 20;

/** An expert as the file lists it. */
export interface SetEntry {
  readonly name: string;
  /** Folder of the adapter within the set's, with slashes; untrusted input. */
  readonly folder: string;
}

/** The contents of a set's file. */
export interface SetFile {
  readonly path: string;
  readonly entries: readonly SetEntry[];
  readonly router: Fields | undefined;
  /** The file as it is, with fields that are not known here. */
  readonly json: JsonObject;
}

/**
 * Reads a set's file; gives `undefined` when the folder has none.
 * @throws {ReadMeError} `ERR_FILE_CORRUPT`, `ERR_MODEL_INVALID`, `ERR_MODEL_UNSUPPORTED` naming the file and the field
 */
export async function readSetFile(folder: string): Promise<SetFile | undefined> {
  const path = join(folder, SET_FILE);
  const json = await readJsonFile(path, MAX_BYTES);
  return json === undefined ? undefined : parseSetFile(path, json);
}

/** Checks the contents of a set's file. @throws {ReadMeError} as `readSetFile` */
export function parseSetFile(path: string, json: JsonObject): SetFile {
  const fields = new Fields(path, json);
  if (fields.size("version", MOST.integer) !== SET_VERSION)
    fields.unsupported("version", `supported is ${SET_VERSION}`);
  const list = fields.list("experts");
  if (list === undefined) throw fields.invalid("lacks `experts`, a list of names and folders");
  if (list.length > MAX_EXPERTS) throw fields.invalid(`${list.length} experts are more than ${MAX_EXPERTS}`);
  const entries = list.map((value, index) => entryOf(new Fields(path, value, `experts[${index}].`)));
  const names = new Set<string>();
  for (const { name } of entries) {
    if (names.has(name)) throw fields.invalid(`\`experts\` has the name ${quoted(name)} twice`);
    names.add(name);
  }
  return { path, entries, router: fields.object("router"), json };
}

function entryOf(fields: Fields): SetEntry {
  const name = fields.text("name");
  const problem = expertNameProblem(name);
  if (problem !== undefined) throw fields.invalid(`the expert's name ${quoted(name)} has to be ${problem}`);
  return { name, folder: fields.text("folder") };
}

/** Formats a JSON file of a set. */
export function setText(value: JsonObject): string {
  return `${JSON.stringify(value, undefined, 2)}\n`;
}
