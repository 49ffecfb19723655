// Notes of the cache folder about models, by their paths: when each was last used, which packed files were made from
// it, and which processes have it open.
//
//   models-used/<hash of the path>/model.json      the path; its time is that of the last use
//                                  packed-<kind>-<key>    empty; an entry of the cache was made from the model
//                                  open-<mark>            empty; a process has the model open
//                                  removing-<mark>        empty; a process is removing the model
//
// Every fact is a file of its own, which one call makes, so that processes cannot damage each other's. A process that
// opens makes its mark and then looks for one that removes; a process that removes does it the other way round. Of two
// at the same time, at least one sees the other.

import { createHash, randomBytes } from "node:crypto";
import { readdir, readFile, rm, stat, utimes, writeFile } from "node:fs/promises";
import { hostname } from "node:os";
import { join, resolve } from "node:path";
import { isRecord, ReadMeError } from "@readme-moe/core";
import { isSystemError, notFound } from "../files/errors.ts";
import { makeFolder, writeFileAtomically } from "../files/write-file.ts";

const FOLDER = "models-used";
const PATH_FILE = "model.json";
const [PACKED, OPEN, REMOVING] = ["packed-", "open-", "removing-"] as const;
// A sixth of the time after which a mark counts as abandoned.
const TOUCH_INTERVAL_MS = 600_000;

/** A folder of data that was made from a model: `<cache folder>/<kind>/<key>`. */
export interface EntryName {
  readonly kind: string;
  readonly key: string;
}

/** Notes of the cache folder on a model. */
export interface IndexedModel {
  /** Absolute path of the model's folder or file. */
  readonly path: string;
  /** Time of the last use, in ms since 1970. */
  readonly lastUsedMs: number;
  readonly entries: readonly EntryName[];
  /** Processes that have the model open; one that has it open twice is listed once. */
  readonly users: readonly ModelUser[];
}

/** A process that uses a model. */
export interface ModelUser {
  readonly pid: number;
  readonly isOnThisMachine: boolean;
}

/** A mark that a process has a model open. */
export interface ModelHold {
  /** Removes the mark. Further calls do nothing. */
  release(): Promise<void>;
}

/** Notes that an entry of the cache was made from a model, or used for it. Never fails: it is no part of any result. */
export async function noteEntry(cacheFolder: string, modelPath: string, { kind, key }: EntryName): Promise<void> {
  try {
    const folder = await notedModel(cacheFolder, modelPath);
    await writeFile(join(folder, `${PACKED}${kind}-${key}`), "");
  } catch {
    // A cache that cannot be written has no packed files of ours either.
  }
}

/**
 * Marks a model as open until `release`, or until the process has ended. Without an effect in a cache that cannot be
 * written.
 *
 * @param modelPath - a model, or a folder that models are downloaded into
 * @throws {ReadMeError} `ERR_FILE_NOT_FOUND` while another process removes the model
 */
export async function holdModel(cacheFolder: string, modelPath: string): Promise<ModelHold> {
  const mark = await makeMark(cacheFolder, modelPath, OPEN);
  if (mark === undefined) return { release: async () => undefined };
  const touch = setInterval(() => void touched(mark.path), TOUCH_INTERVAL_MS).unref();
  const release = async (): Promise<void> => {
    clearInterval(touch);
    await rm(mark.path, { force: true }).catch(() => undefined);
  };
  const [remover] = usersOf(await marksIn(mark.folder, REMOVING));
  if (remover === undefined) return { release };
  await release();
  throw notFound(resolve(modelPath), `${described(remover)} is removing it`);
}

/**
 * Marks models as being removed, unless a process has one of them open.
 *
 * @returns `release`, which removes the marks
 * @throws {ReadMeError} `ERR_MODEL_IN_USE`, naming the processes
 */
export async function reserveRemoval(cacheFolder: string, modelPaths: readonly string[]): Promise<ModelHold> {
  const marks: (Mark | undefined)[] = [];
  for (const path of modelPaths) marks.push(await makeMark(cacheFolder, path, REMOVING));
  const release = async (): Promise<void> => {
    for (const mark of marks) if (mark) await rm(mark.path, { force: true }).catch(() => undefined);
  };
  for (const [index, mark] of marks.entries()) {
    const users = mark === undefined ? [] : usersOf(await marksIn(mark.folder, OPEN));
    if (users.length === 0) continue;
    await release();
    const who = users.map(described).join(" and ");
    throw new ReadMeError("ERR_MODEL_IN_USE", `${modelPaths[index]}: ${who} has it open; end that first`);
  }
  return { release };
}

/** Reads everything that the cache folder knows about models. Marks of processes that have ended are removed. */
export async function readModelIndex(cacheFolder: string): Promise<readonly IndexedModel[]> {
  const root = join(cacheFolder, FOLDER);
  const models = await Promise.all((await namesIn(root)).map((name) => readModel(join(root, name))));
  return models.filter((model) => model !== undefined);
}

/** Forgets models, with their marks. */
export async function forgetModels(cacheFolder: string, modelPaths: readonly string[]): Promise<void> {
  for (const path of modelPaths) await rm(folderOf(cacheFolder, path), { recursive: true, force: true });
}

async function readModel(folder: string): Promise<IndexedModel | undefined> {
  const file = join(folder, PATH_FILE);
  try {
    const [json, { mtimeMs: lastUsedMs }] = [JSON.parse(await readFile(file, "utf8")) as unknown, await stat(file)];
    const path = isRecord(json) ? json["path"] : undefined;
    if (typeof path !== "string") return undefined;
    const entries = (await namesIn(folder)).flatMap((name) => {
      const [, kind, key] = /^packed-([a-z]+)-([0-9a-f]+)$/.exec(name) ?? [];
      return kind === undefined || key === undefined ? [] : [{ kind, key }];
    });
    return { path, lastUsedMs, entries, users: usersOf(await marksIn(folder, OPEN)) };
  } catch {
    // Removed by another process meanwhile, or damaged: nothing depends on it.
    return undefined;
  }
}

function folderOf(cacheFolder: string, modelPath: string): string {
  const hash = createHash("sha256").update(resolve(modelPath)).digest("hex").slice(0, 32);
  return join(cacheFolder, FOLDER, hash);
}

/** Makes the folder of a model, or notes the time of its use. */
async function notedModel(cacheFolder: string, modelPath: string): Promise<string> {
  const folder = folderOf(cacheFolder, modelPath);
  const file = join(folder, PATH_FILE);
  if (await touched(file)) return folder;
  await makeFolder(folder);
  await writeFileAtomically(file, JSON.stringify({ path: resolve(modelPath) }));
  return folder;
}

async function touched(path: string): Promise<boolean> {
  const now = new Date();
  return utimes(path, now, now).then(
    () => true,
    () => false,
  );
}

interface Mark {
  readonly folder: string;
  readonly path: string;
}

/** Makes a mark of this process; `undefined` in a cache that cannot be written. */
async function makeMark(cacheFolder: string, modelPath: string, kind: string): Promise<Mark | undefined> {
  const name = `${kind}${OWN_MARK}-${randomBytes(4).toString("hex")}`;
  for (let mayRetry = true; ; mayRetry = false) {
    try {
      const folder = await notedModel(cacheFolder, modelPath);
      await writeFile(join(folder, name), "");
      return { folder, path: join(folder, name) };
    } catch {
      // Another process may have removed the folder between the two lines.
      if (!mayRetry) return undefined;
    }
  }
}

/** Lists the owners of marks, and removes the marks of processes that have ended. */
async function marksIn(folder: string, kind: string): Promise<readonly Owner[]> {
  const owners = [];
  for (const name of await namesIn(folder)) {
    const owner = name.startsWith(kind) ? ownerOf(name.slice(kind.length)) : undefined;
    const state = owner && (await stat(join(folder, name)).catch(() => undefined));
    if (owner === undefined || state === undefined) continue;
    if (!hasEnded(owner, state.mtimeMs) && !isAbandoned(state.mtimeMs)) owners.push(owner);
    else await rm(join(folder, name), { force: true }).catch(() => undefined);
  }
  return owners;
}

function usersOf(owners: readonly Owner[]): readonly ModelUser[] {
  const users = owners.map((owner) => ({ pid: owner.pid, isOnThisMachine: isOnThisMachine(owner) }));
  return users.filter(
    (one, index) =>
      users.findIndex((other) => other.pid === one.pid && other.isOnThisMachine === one.isOnThisMachine) === index,
  );
}

function described({ pid, isOnThisMachine: isHere }: ModelUser): string {
  return `process ${pid}${isHere ? "" : " of another machine"}`;
}

async function namesIn(folder: string): Promise<readonly string[]> {
  return readdir(folder).catch(() => []);
}

// Marks of processes in the names of files: who writes a file, or uses a model. A mark names a machine and a process,
// so that the marks of processes that were killed can be told from those of running ones.

const HOST = createHash("sha256").update(hostname()).digest("hex").slice(0, 8);
// Owners on other machines cannot be asked, so they write or touch their files more often than once an hour.
const ABANDONED_AFTER_MS = 3_600_000;

/** Owner of a file, as its name says. */
interface Owner {
  /** Hash of the machine's name. */
  readonly host: string;
  readonly pid: number;
}

/** Beginning of the marks of this process, `<host>-<pid>`. */
export const OWN_MARK: string = `${HOST}-${process.pid}`;

/** Reads `<host>-<pid>-<id>`; `undefined` for anything else. */
export function ownerOf(mark: string): Owner | undefined {
  const { host, pid } = /^(?<host>[0-9a-f]{8})-(?<pid>\d+)-[0-9a-f]{8}$/.exec(mark)?.groups ?? {};
  return host === undefined ? undefined : { host, pid: Number(pid) };
}

/** Whether an owner's process runs on this machine, as far as the names of machines tell. */
export function isOnThisMachine({ host }: Owner): boolean {
  return host === HOST;
}

/** Whether the owner of a file has ended. @param writtenAtMs - the file's time */
export function hasEnded(owner: Owner, writtenAtMs: number): boolean {
  if (!isOnThisMachine(owner)) return isAbandoned(writtenAtMs);
  // In a container, a killed process may have had the number of this one.
  if (owner.pid === process.pid) return writtenAtMs < Date.now() - process.uptime() * 1000;
  return !isAlive(owner.pid);
}

/** Whether a file that its owner touches regularly has not been touched for an hour. */
function isAbandoned(writtenAtMs: number): boolean {
  return writtenAtMs < Date.now() - ABANDONED_AFTER_MS;
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return !isSystemError(error, "ESRCH");
  }
}
