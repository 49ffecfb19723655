// Adds experts to a set and removes them. The set's file is written last when some are added and first when one is
// removed, so a killed process leaves at most files that are not listed.

import { createReadStream } from "node:fs";
import { copyFile, readdir, rm, rmdir, stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { describeValue, ReadMeError } from "@readme-moe/core";
import { fileError, quoted } from "../files/errors.ts";
import { resolveInside } from "../files/file-name.ts";
import type { JsonObject } from "../files/read-file.ts";
import { writeFileAtomically, writeFolderAtomically } from "../files/write-file.ts";
import { type Model, ROUTER_FILE, verifyTensors } from "../folder/model.ts";
import { openExpertSet } from "./expert-set.ts";
import { ADAPTER_CONFIG_FILE, ADAPTER_FILE, expertNameProblem } from "./low-rank-expert.ts";
import { ADAPTERS_FOLDER, type ListedExpert, type LowRankSet, SET_FILE } from "./low-rank-set.ts";
import { openLowRankExpert } from "./open-low-rank-expert.ts";
import { changing } from "./set-lock.ts";
import { readSetFile, SET_VERSION, type SetEntry, type SetFile, setText } from "./set-file.ts";

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
export async function addLowRankExpert(
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
 * @throws {ReadMeError} as `openExpertSet` and `addLowRankExpert`; `ERR_WRITE_FAILED` also when a router would have to
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
  readonly opened: LowRankSet;
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
  /** The set's file of before. */
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
    await (await openLowRankExpert(path, name, model)).close();
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
export async function removeLowRankExpert(
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
    const expert = await openLowRankExpert(copy, name, model);
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
  await writeFileAtomically(path, setText(content));
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
