// Adds experts to a set and removes them. The set's file is written last when one is added and first when one is
// removed, so a killed process leaves at most an adapter that is not listed.

import { copyFile, mkdir, readdir, rm, rmdir, stat } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { describeValue, ReadMeError } from "@readme-moe/core";
import { fileError, isSystemError, quoted, writeError } from "../files/errors.ts";
import { resolveInside } from "../files/file-name.ts";
import type { JsonObject } from "../files/text-file.ts";
import { writeFileAtomically, writeFolderAtomically } from "../files/write-file.ts";
import { type Model, ROUTER_FILE } from "../folder/model.ts";
import { verifyTensors } from "../folder/verify-model.ts";
import { type SafetensorsInput, writeSafetensors } from "../safetensors/write-safetensors.ts";
import { ADAPTER_CONFIG_FILE, ADAPTER_FILE, expertNameProblem } from "./low-rank-expert.ts";
import { ADAPTERS_FOLDER, SET_FILE } from "./low-rank-set.ts";
import { openLowRankExpert } from "./open-low-rank-expert.ts";
import { parseSetFile, readSetFile, SET_VERSION, type SetEntry, type SetFile } from "./set-file.ts";

/** Options of changes that a set's router would not survive. */
export interface ChangeSetOptions {
  /** Removes the set's router, which was trained for other experts. @default a set with a router is refused */
  readonly dropRouter?: boolean | undefined;
}

/** An adapter to be added to a set. */
export interface ExpertAddition {
  readonly name: string;
  /** The adapter's folder, in PEFT's layout. Its two files are copied. */
  readonly path: string;
  /** The dense model that the adapter changes. */
  readonly model: Pick<Model, "config" | "experts">;
}

/**
 * Adds an adapter to the expert set in a folder, which becomes a set if it is none. The copy is checked whole: also
 * that every number is finite.
 *
 * @param folder - the dense model's folder, or the folder of a set
 * @throws {ReadMeError} naming the file that cannot be taken; `ERR_WRITE_FAILED` when the set has the name already, or
 *   a router that was not made for this expert; nothing has changed then
 * @throws {TypeError} for a wrong name
 */
export async function addLowRankExpert(
  folder: string,
  { name, path, model }: ExpertAddition,
  { dropRouter = false }: ChangeSetOptions = {},
): Promise<void> {
  const problem = expertNameProblem(name);
  if (problem !== undefined) throw new TypeError(`Expected \`name\` to be ${problem}, got ${describeValue(name)}`);
  const set = resolve(folder);
  await expectFolder(set);
  const file = await readSetFile(set);
  const entries = file?.entries ?? [];
  // Folders of names that differ in case are the same on some systems.
  const other = entries.find((entry) => entry.name.toLowerCase() === name.toLowerCase());
  if (other !== undefined) throw cannotChange(set, `has an expert ${quoted(other.name)} already; choose another name`);
  checkRouter(set, file, dropRouter);
  await (await openLowRankExpert(path, name, model)).close();
  const target = join(set, ADAPTERS_FOLDER, name);
  await removeUnlisted(target);
  await makeFolder(dirname(target));
  await writeFolderAtomically(target, async (temporary) => {
    for (const part of [ADAPTER_CONFIG_FILE, ADAPTER_FILE]) await copyInto(temporary, path, part);
    await checkAdapter(temporary, path, name, model);
  });
  try {
    await writeSetFile(set, file?.json, [...entries, { name, folder: `${ADAPTERS_FOLDER}/${name}` }]);
  } catch (error) {
    await removeAdapter(target);
    throw error;
  }
  if (file?.router !== undefined) await rm(join(set, ROUTER_FILE), { force: true });
}

/**
 * Removes an expert from the set in a folder, and its adapter's two files.
 *
 * @throws {ReadMeError} `ERR_FILE_NOT_FOUND` when there is no such expert; `ERR_WRITE_FAILED` when the set has a router
 */
export async function removeLowRankExpert(
  folder: string,
  name: string,
  { dropRouter = false }: ChangeSetOptions = {},
): Promise<void> {
  const set = resolve(folder);
  const file = await readSetFile(set);
  if (file === undefined) throw new ReadMeError("ERR_FILE_NOT_FOUND", `${set}: has no ${SET_FILE}, so no experts`);
  const entry = file.entries.find((one) => one.name === name);
  if (entry === undefined) {
    const names = file.entries.map((one) => one.name).join(", ") || "none";
    throw new ReadMeError("ERR_FILE_NOT_FOUND", `${file.path}: has no expert ${quoted(name)}; it has ${names}`);
  }
  checkRouter(set, file, dropRouter);
  // A folder outside of the set is none of the set's to remove.
  const path = await resolveInside(set, entry.folder, file.path).catch(() => undefined);
  const others = file.entries.filter((one) => one !== entry);
  await writeSetFile(set, file.json, others);
  if (file.router !== undefined) await rm(join(set, ROUTER_FILE), { force: true });
  const isShared = others.some((one) => one.folder === entry.folder);
  if (path !== undefined && !isShared) await removeAdapter(path);
  // Only when no other adapter is in it.
  await rmdir(join(set, ADAPTERS_FOLDER)).catch(() => undefined);
}

/** The contents of a new expert set. */
export interface ExpertSetContent {
  readonly experts: readonly {
    readonly name: string;
    /** adapter_config.json */
    readonly config: JsonObject;
    /** adapter_model.safetensors, under PEFT's names */
    readonly tensors: readonly SafetensorsInput[];
  }[];
  readonly router?:
    | {
        /** Fields of `readme.router` of a Read-ME folder's config.json. */
        readonly config: JsonObject;
        readonly tensors: readonly SafetensorsInput[];
      }
    | undefined;
  /** Origin of the set; free-form. */
  readonly provenance?: JsonObject | undefined;
  /** Further text files by name, such as report.json and README.md. */
  readonly documents?: Readonly<Record<string, string>> | undefined;
}

/**
 * Writes an expert set into a folder of its own, whole or not at all.
 *
 * @param path - a folder that does not exist yet, or is empty
 * @throws {ReadMeError} `ERR_WRITE_FAILED` when it is neither, or when anything fails underway; as `openExpertSet` for
 *   names that a set cannot have
 */
export async function writeExpertSet(path: string, content: ExpertSetContent): Promise<void> {
  const { experts, router, provenance, documents = {} } = content;
  const entries = experts.map(({ name }) => ({ name, folder: `${ADAPTERS_FOLDER}/${name}` }));
  const json = { version: SET_VERSION, experts: entries, router: router?.config, provenance };
  // Names become folders, so they are checked before anything is written.
  parseSetFile(join(path, SET_FILE), json);
  await writeFolderAtomically(path, async (folder) => {
    for (const { name, config, tensors } of experts) {
      const adapter = join(folder, ADAPTERS_FOLDER, name);
      await mkdir(adapter, { recursive: true });
      await writeSafetensors(join(adapter, ADAPTER_FILE), tensors, { format: "pt" });
      await writeFileAtomically(join(adapter, ADAPTER_CONFIG_FILE), toText(config));
    }
    if (router) await writeSafetensors(join(folder, ROUTER_FILE), router.tensors);
    for (const [name, text] of Object.entries(documents)) {
      await mkdir(dirname(join(folder, name)), { recursive: true });
      await writeFileAtomically(join(folder, name), text);
    }
    await writeFileAtomically(join(folder, SET_FILE), toText(json));
  });
}

async function expectFolder(path: string): Promise<void> {
  const stats = await stat(path).catch((cause: unknown) => {
    throw fileError(path, cause);
  });
  if (stats.isDirectory()) return;
  const remedy = "put it into a folder of its own, which can hold experts";
  throw new ReadMeError("ERR_MODEL_UNSUPPORTED", `${path}: is a file; ${remedy}`);
}

/** @throws {ReadMeError} when the set has a router, and the caller did not say that it may go */
function checkRouter(set: string, file: SetFile | undefined, dropRouter: boolean): void {
  if (file?.router === undefined || dropRouter) return;
  const names = file.entries.map(({ name }) => name).join(", ");
  throw cannotChange(set, `has a router that chooses among ${names}; to change them, drop it (--drop-router)`);
}

async function copyInto(folder: string, source: string, name: string): Promise<void> {
  const from = join(source, name);
  await stat(from).catch((cause: unknown) => {
    throw fileError(from, cause);
  });
  await copyFile(from, join(folder, name));
}

/** Checks a copy. Messages name the original. */
async function checkAdapter(
  copy: string,
  original: string,
  name: string,
  model: Pick<Model, "config" | "experts">,
): Promise<void> {
  try {
    const expert = await openLowRankExpert(copy, name, model);
    await verifyTensors([expert.layers, expert.head]).finally(() => expert.close());
  } catch (error) {
    if (!(error instanceof ReadMeError)) throw error;
    throw new ReadMeError(error.code, error.message.replaceAll(copy, resolve(original)), { cause: error });
  }
}

async function writeSetFile(set: string, json: JsonObject | undefined, entries: readonly SetEntry[]): Promise<void> {
  const path = join(set, SET_FILE);
  const isEmpty = entries.length === 0 && json?.["provenance"] === undefined;
  if (isEmpty) return rm(path, { force: true });
  const { router: _router, ...others } = json ?? {};
  await writeFileAtomically(path, toText({ ...others, version: SET_VERSION, experts: entries }));
}

/** Removes what a killed process left under a name that the set does not list. Other files are left alone. */
async function removeUnlisted(path: string): Promise<void> {
  const names = await readdir(path).catch(() => []);
  const known: readonly string[] = [ADAPTER_CONFIG_FILE, ADAPTER_FILE];
  if (names.length > 0 && names.every((name) => known.includes(name))) await removeAdapter(path);
}

/** Removes an adapter's files, and its folder if nothing else is in it. */
async function removeAdapter(path: string): Promise<void> {
  for (const name of [ADAPTER_CONFIG_FILE, ADAPTER_FILE]) await rm(join(path, name), { force: true });
  await rmdir(path).catch(() => undefined);
}

async function makeFolder(path: string): Promise<void> {
  await mkdir(path).catch((cause: unknown) => {
    if (!isSystemError(cause, "EEXIST")) throw writeError(path, cause);
  });
}

function cannotChange(set: string, message: string): ReadMeError {
  return new ReadMeError("ERR_WRITE_FAILED", `${set}: ${message}`);
}

function toText(value: JsonObject): string {
  return `${JSON.stringify(value, undefined, 2)}\n`;
}
