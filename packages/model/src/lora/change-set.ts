// Adds loras to a set and removes them, one change at a time, also by several processes of one machine. The set's
// file is written last when some are added and first when one is removed, so a killed process leaves at most files
// that are not listed.

import { randomBytes, randomUUID } from "node:crypto";
import { createReadStream } from "node:fs";
import { copyFile, readdir, readFile, rename, rm, rmdir, stat, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { setTimeout } from "node:timers/promises";
import { describeValue, ReadMeError } from "@readme-moe/core";
import { hasEnded, OWN_MARK, ownerOf } from "../cache/model-index.ts";
import { fileError, isSystemError, quoted, writeError } from "../files/errors.ts";
import { resolveInside } from "../files/file-name.ts";
import type { JsonObject } from "../files/read-file.ts";
import { TEMPORARY_PREFIX, toJson, writeFileAtomically, writeFolderAtomically } from "../files/write-file.ts";
import { type Model, ROUTER_FILE, verifyTensors } from "../folder/model.ts";
import { openExpertSet, readSetFile, SET_VERSION, type SetEntry, type SetFile } from "./lora-set.ts";
import {
  ADAPTER_CONFIG_FILE,
  ADAPTER_FILE,
  ADAPTERS_FOLDER,
  expertNameProblem,
  type ListedExpert,
  type LoraSet,
  SET_FILE,
} from "./lora.ts";
import { openLora } from "./open-lora.ts";

/** Options of changes that a set's router would not survive. */
export interface ChangeSetOptions {
  /** Removes the set's router, which was trained for other experts. @default a set with a router is refused */
  readonly dropRouter?: boolean | undefined;
}

/** The dense model that experts change. */
type Base = Pick<Model, "config" | "experts">;

/** An adapter to be added to a set. */
export interface ExpertAddition extends ListedExpert {
  readonly model: Base;
}

/**
 * Adds an adapter to the expert set in a folder, which becomes a set if it is none. Its two files are copied, and the
 * copy is checked whole: also that every number is finite.
 *
 * @param folder - the dense model's folder, or the folder of a set
 * @throws {ReadMeError} naming the file that cannot be taken; `ERR_WRITE_FAILED` when the set has the name already, or
 *   a router that was not made for this expert; nothing has changed then
 * @throws {TypeError} for a wrong name
 */
export async function addLora(
  folder: string,
  { name, path, model }: ExpertAddition,
  { dropRouter = false }: ChangeSetOptions = {},
): Promise<void> {
  const problem = expertNameProblem(name);
  if (problem !== undefined) throw new TypeError(`Expected \`name\` to be ${problem}, got ${describeValue(name)}`);
  const set = resolve(folder);
  await expectFolder(set);
  await changing(set, async () => {
    const file = await readSetFile(set);
    checkRouter(set, file, dropRouter);
    await addAdapters(set, { file, added: [{ name, path }], model });
    if (file?.router !== undefined) await rm(join(set, ROUTER_FILE), { force: true });
  });
}

/**
 * Adds all experts of a set to the set in another folder, and its router if that folder had no experts.
 *
 * @param folder - the dense model's folder, or the folder of a set
 * @param from - the folder of the set that is copied
 * @throws {ReadMeError} as `openExpertSet` and `addLora`; `ERR_WRITE_FAILED` also when a router would have to
 *   choose among the experts of both
 */
export async function addExpertSet(
  folder: string,
  { path: from, model }: { readonly path: string; readonly model: Base },
  { dropRouter = false }: ChangeSetOptions = {},
): Promise<void> {
  const set = resolve(folder);
  await expectFolder(set);
  const source = await readSetFile(resolve(from));
  const opened = await openExpertSet(from, model.config);
  if (opened === undefined || source === undefined) throw notFound(resolve(from));
  try {
    await changing(set, () => joinSets(set, { source, opened, model, dropRouter }));
  } finally {
    await opened.close();
  }
}

interface Joined {
  /** The file of the set that is added. */
  readonly source: SetFile;
  readonly opened: LoraSet;
  readonly model: Base;
  readonly dropRouter: boolean;
}

async function joinSets(set: string, { source, opened, model, dropRouter }: Joined): Promise<void> {
  const file = await readSetFile(set);
  checkRouter(set, file, dropRouter);
  const isFirst = (file?.entries.length ?? 0) === 0;
  if (!isFirst) checkRouter(opened.path, source, dropRouter);
  const isRouted = isFirst && source.router !== undefined;
  if (isRouted) await verifyTensors(opened.router);
  const { router, provenance } = source.json;
  await addAdapters(set, {
    file,
    added: opened.experts,
    model,
    beforeListing: async () => {
      const path = join(set, ROUTER_FILE);
      if (isRouted) await writeFileAtomically(path, createReadStream(join(opened.path, ROUTER_FILE)));
    },
    fields: { ...(isRouted && { router }), ...(isFirst && provenance !== undefined && { provenance }) },
  });
  if (file?.router !== undefined) await rm(join(set, ROUTER_FILE), { force: true });
}

interface Additions {
  readonly file: SetFile | undefined;
  readonly added: readonly ListedExpert[];
  readonly model: Base;
  /** Runs when all adapters are copied. */
  readonly beforeListing?: () => Promise<void>;
  /** Further fields of the set's file. */
  readonly fields?: JsonObject;
}

/** Copies adapters and then lists them; removes the copies when anything fails. */
async function addAdapters(set: string, { file, added, model, beforeListing, fields }: Additions): Promise<void> {
  const entries = [...(file?.entries ?? [])];
  for (const { name, path } of added) {
    // Folders of names that differ in case are the same on some systems.
    const other = entries.find((entry) => entry.name.toLowerCase() === name.toLowerCase());
    if (other !== undefined)
      throw cannotChange(set, `has an expert ${quoted(other.name)} already; choose another name`);
    entries.push({ name, folder: `${ADAPTERS_FOLDER}/${name}` });
    await (await openLora(path, name, model)).close();
  }
  const copies: string[] = [];
  try {
    for (const { name, path } of added) {
      const target = join(set, ADAPTERS_FOLDER, name);
      await removeUnlisted(target);
      await writeFolderAtomically(target, async (temporary) => {
        for (const part of [ADAPTER_CONFIG_FILE, ADAPTER_FILE]) await copyInto(temporary, path, part);
        await checkAdapter(temporary, path, name, model);
      });
      copies.push(target);
    }
    await beforeListing?.();
    await writeSetFile(set, { ...file?.json, ...fields }, { entries, hasRouter: fields?.["router"] !== undefined });
  } catch (error) {
    for (const copy of copies) await removeAdapter(copy);
    await rmdir(join(set, ADAPTERS_FOLDER)).catch(() => undefined);
    throw error;
  }
}

/**
 * Removes an expert from the set in a folder, and its adapter's two files.
 *
 * @throws {ReadMeError} `ERR_FILE_NOT_FOUND` when there is no such expert; `ERR_WRITE_FAILED` when the set has a router
 */
export async function removeLora(
  folder: string,
  name: string,
  { dropRouter = false }: ChangeSetOptions = {},
): Promise<void> {
  const set = resolve(folder);
  if ((await readSetFile(set)) === undefined) throw notFound(set);
  await changing(set, () => removeFrom(set, name, dropRouter));
}

async function removeFrom(set: string, name: string, dropRouter: boolean): Promise<void> {
  const file = await readSetFile(set);
  if (file === undefined) throw notFound(set);
  const entry = file.entries.find((one) => one.name === name);
  if (entry === undefined) {
    const names = file.entries.map((one) => one.name).join(", ") || "none";
    throw new ReadMeError("ERR_FILE_NOT_FOUND", `${file.path}: has no expert ${quoted(name)}; it has ${names}`);
  }
  checkRouter(set, file, dropRouter);
  // A folder outside of the set is none of the set's to remove.
  const path = await resolveInside(set, entry.folder, file.path).catch(() => undefined);
  const others = file.entries.filter((one) => one !== entry);
  await writeSetFile(set, file.json, { entries: others, hasRouter: false });
  if (file.router !== undefined) await rm(join(set, ROUTER_FILE), { force: true });
  const isShared = others.some((one) => one.folder === entry.folder);
  if (path !== undefined && !isShared) await removeAdapter(path);
  // Only when no other adapter is in it.
  await rmdir(join(set, ADAPTERS_FOLDER)).catch(() => undefined);
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
async function checkAdapter(copy: string, original: string, name: string, model: Base): Promise<void> {
  try {
    const expert = await openLora(copy, name, model);
    await verifyTensors([expert.layers, expert.head]).finally(() => expert.close());
  } catch (error) {
    if (!(error instanceof ReadMeError)) throw error;
    throw new ReadMeError(error.code, error.message.replaceAll(copy, resolve(original)), { cause: error });
  }
}

/** Writes the set's file, or removes it when it would say nothing. */
async function writeSetFile(
  set: string,
  json: JsonObject,
  { entries, hasRouter }: { readonly entries: readonly SetEntry[]; readonly hasRouter: boolean },
): Promise<void> {
  const path = join(set, SET_FILE);
  const isEmpty = entries.length === 0 && json["provenance"] === undefined;
  if (isEmpty) return rm(path, { force: true });
  const { router, ...others } = json;
  const content = { ...others, version: SET_VERSION, experts: entries, ...(hasRouter && { router }) };
  await writeFileAtomically(path, toJson(content));
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

function cannotChange(set: string, message: string): ReadMeError {
  return new ReadMeError("ERR_WRITE_FAILED", `${set}: ${message}`);
}

function notFound(set: string): ReadMeError {
  return new ReadMeError("ERR_FILE_NOT_FOUND", `${set}: has no ${SET_FILE}, so no experts`);
}

const LOCK_FILE = ".read-me-experts.lock";
/** Far longer than copying an adapter takes. */
const MAX_WAIT_MS = 60_000;
const POLL_MS = 25;
/** Longest time between the creation of a lock and its content. */
const MAX_EMPTY_MS = 5_000;

/**
 * Runs a change of a set while no other runs, and waits for one that does. The lock of a process that was killed is
 * taken over.
 *
 * @throws {ReadMeError} `ERR_WRITE_FAILED` when another change takes longer than a minute, or the folder is read-only
 */
async function changing<Result>(set: string, change: () => Promise<Result>): Promise<Result> {
  const path = join(set, LOCK_FILE);
  await acquire(path);
  try {
    return await change();
  } finally {
    await rm(path, { force: true });
  }
}

async function acquire(path: string): Promise<void> {
  for (let waitedMs = 0; waitedMs < MAX_WAIT_MS; waitedMs += POLL_MS) {
    try {
      return await writeFile(path, `${OWN_MARK}-${randomBytes(4).toString("hex")}`, { flag: "wx" });
    } catch (cause) {
      if (!isSystemError(cause, "EEXIST")) throw writeError(path, cause);
    }
    if (await isLeft(path)) await takeAway(path);
    else await setTimeout(POLL_MS);
  }
  throw cannotChange(path, "another process changes this set; if none does, remove this file");
}

/** Tells whether the process that made a lock has ended. A lock without content was made a moment ago. */
async function isLeft(path: string): Promise<boolean> {
  const mark = await readFile(path, "utf8").catch(() => "");
  const state = await stat(path).catch(() => undefined);
  if (state === undefined) return false;
  const owner = ownerOf(mark);
  return owner ? hasEnded(owner, state.mtimeMs) : Date.now() - state.mtimeMs > MAX_EMPTY_MS;
}

/** Removes a lock by a rename, which only one of several processes can do. */
async function takeAway(path: string): Promise<void> {
  const aside = join(path, "..", `${TEMPORARY_PREFIX}${randomUUID()}.tmp`);
  await rename(path, aside).catch(() => undefined);
  await rm(aside, { force: true });
}
