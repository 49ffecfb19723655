// One model in the cache that all of Hugging Face's tools share:
//
//   models--org--name/blobs/<hash>                 contents
//                     snapshots/<commit>/<file>    links to the contents
//                     refs/<branch or tag>         its commit at the last download
//                     .no_exist/<commit>/<file>    empty; the commit is known to have no such file
//
// @huggingface/hub has the same layout in `downloadFileToCacheDir`. It neither resumes nor checks hashes, prints to the
// console, shares one temporary file among all processes, and asks for each file's hash anew (2.17.5).

import { createHash, type Hash, randomBytes, randomUUID } from "node:crypto";
import { copyFile, type FileHandle, link, open, readdir, rename, rm, stat, symlink, writeFile } from "node:fs/promises";
import { basename, dirname, join, relative, sep } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { hasEnded, OWN_MARK, ownerOf } from "../cache/model-index.ts";
import { corrupt, fileError, isSystemError, writeError } from "../files/errors.ts";
import { fileSize, readTextFile } from "../files/read-file.ts";
import { makeFolder, renamePatiently, writeFileAtomically } from "../files/write-file.ts";
import {
  type HubClient,
  type HubResponse,
  reasonOf,
  type RemoteFile,
  retrying,
  TransientFailure,
} from "./hub-client.ts";
import { areSymlinksDisabled, type DownloadRequest, isCommit } from "./options.ts";

const MAX_REF_BYTES = 4096;

export class HubCache {
  readonly folder: string;

  constructor(cacheFolder: string, name: string) {
    this.folder = join(cacheFolder, `models--${name.replace("/", "--")}`);
  }

  snapshot(commit: string): string {
    return join(this.folder, "snapshots", commit);
  }

  blob(oid: string): string {
    return join(this.folder, "blobs", oid);
  }

  /** Returns the commit that a revision stood for at its last download. */
  async commitOf(revision: string): Promise<string | undefined> {
    if (isCommit(revision)) return revision;
    const commit = (await readTextFile(this.#ref(revision), MAX_REF_BYTES))?.trim();
    return commit !== undefined && isCommit(commit) ? commit : undefined;
  }

  /** Lists the branches and tags that were downloaded, with their commits. */
  async revisions(): Promise<ReadonlyMap<string, string>> {
    const names = await readdir(join(this.folder, "refs"), { recursive: true }).catch(() => []);
    const revisions = new Map<string, string>();
    for (const name of names.map((each) => each.replaceAll(sep, "/"))) {
      if ((await fileSize(this.#ref(name))) === undefined) continue;
      const commit = await this.commitOf(name).catch(() => undefined);
      if (commit !== undefined) revisions.set(name, commit);
    }
    return revisions;
  }

  async setCommitOf(revision: string, commit: string): Promise<void> {
    if (isCommit(revision) || (await this.commitOf(revision)) === commit) return;
    await unlessReadOnly(this.#ref(revision), (path) => writeFileAtomically(path, commit));
  }

  /** Lists the snapshot's files, with slashes, whose contents are there. */
  async filesOf(commit: string): Promise<ReadonlySet<string>> {
    const folder = this.snapshot(commit);
    const names = await readdir(folder, { recursive: true }).catch((error: unknown) => {
      if (isSystemError(error, "ENOENT", "ENOTDIR")) return [];
      throw fileError(folder, error);
    });
    const sizes = await Promise.all(names.map((name) => fileSize(join(folder, name))));
    return new Set(names.filter((_, i) => sizes[i] !== undefined).map((name) => name.replaceAll(sep, "/")));
  }

  async isKnownAbsent(commit: string, name: string): Promise<boolean> {
    return (await fileSize(this.#absence(commit, name))) !== undefined;
  }

  async setAbsent(commit: string, name: string): Promise<void> {
    await unlessReadOnly(this.#absence(commit, name), (path) => writeFile(path, ""));
  }

  /** Puts a blob into a snapshot under a file's name, in place of the file that is there. */
  async link(commit: string, name: string, oid: string): Promise<void> {
    const path = join(this.snapshot(commit), name);
    const temporary = join(dirname(path), `.readme-moe-${randomUUID()}.tmp`);
    try {
      await makeFolder(dirname(path));
      await linkOrCopy(this.blob(oid), temporary);
      await rename(temporary, path);
    } catch (cause) {
      await rm(temporary, { force: true }).catch(() => undefined);
      throw writeError(path, cause);
    }
  }

  #ref(revision: string): string {
    return join(this.folder, "refs", revision);
  }

  #absence(commit: string, name: string): string {
    return join(this.folder, ".no_exist", commit, name);
  }
}

/** Makes a symbolic link (relative, so that the cache can move), else a hard link, else a copy. */
async function linkOrCopy(blob: string, path: string): Promise<void> {
  const symbolic = (): Promise<void> => symlink(relative(dirname(path), blob), path);
  const makers = [() => link(blob, path), () => copyFile(blob, path)];
  if (!areSymlinksDisabled()) makers.unshift(symbolic);
  for (const [i, make] of makers.entries()) {
    try {
      return await make();
    } catch (error) {
      if (i === makers.length - 1) throw error;
    }
  }
}

/** Writes a file that only speeds up the next call, unless the cache is read-only, such as one that others fill. */
async function unlessReadOnly(path: string, write: (path: string) => Promise<void>): Promise<void> {
  try {
    await makeFolder(dirname(path));
    await write(path);
  } catch (error) {
    const cause = error instanceof ReadMeError ? error.cause : error;
    if (!isSystemError(cause, "EROFS", "EACCES", "EPERM")) throw writeError(path, cause);
  }
}

// A file during its download. Its names are beside that of the finished blob:
//
//   <hash>.readme-moe.incomplete                       left by an interrupted download; any download may continue it
//   <hash>.readme-moe-<host>-<pid>-<id>.incomplete     one download is writing it
//
// A download takes over a left file by renaming it, which only one of several can do. A later download starts from
// nothing, so two processes cost bandwidth but never write to one file. `.incomplete` files of other tools are not
// touched: they may be in use, and are not always filled from the front.

const CHUNK_BYTES = 1 << 20;

/** A file that is filled from the front, hashed as it grows, and gets its final name when its hash is right. */
class PartialFile {
  readonly #path: string;
  readonly #blobPath: string;
  readonly #file: RemoteFile;
  readonly #handle: FileHandle;
  #hash: Hash;
  #doneBytes = 0;

  private constructor(path: string, blobPath: string, file: RemoteFile, handle: FileHandle) {
    this.#path = path;
    this.#blobPath = blobPath;
    this.#file = file;
    this.#handle = handle;
    this.#hash = startHash(file);
  }

  /** Opens the file with the bytes that an earlier download left. @throws {ReadMeError} `ERR_WRITE_FAILED` */
  static async open(blobPath: string, file: RemoteFile, signal: AbortSignal | undefined): Promise<PartialFile> {
    let partial: PartialFile | undefined;
    try {
      const path = await claimPartial(blobPath);
      const handle = await open(path, "r+").catch(() => open(path, "wx+"));
      partial = new PartialFile(path, blobPath, file, handle);
      await partial.#readLeftover(signal);
      return partial;
    } catch (error) {
      await partial?.leave().catch(() => undefined);
      signal?.throwIfAborted();
      throw writeError(blobPath, error);
    }
  }

  /** Number of bytes that are there; more than the file's size when the server sent too many. */
  get doneBytes(): number {
    return this.#doneBytes;
  }

  async append(bytes: Uint8Array): Promise<void> {
    try {
      for (let done = 0; done < bytes.byteLength;) {
        const at = this.#doneBytes + done;
        done += (await this.#handle.write(bytes, done, bytes.byteLength - done, at)).bytesWritten;
      }
    } catch (cause) {
      throw writeError(this.#blobPath, cause);
    }
    this.#hash.update(bytes);
    this.#doneBytes += bytes.byteLength;
  }

  /** Drops all bytes. */
  async restart(): Promise<void> {
    this.#hash = startHash(this.#file);
    this.#doneBytes = 0;
    await this.#handle.truncate(0).catch((cause: unknown) => {
      throw writeError(this.#blobPath, cause);
    });
  }

  /** Returns what is wrong with the complete content, or `undefined` when it has the size and hash of the hub. */
  problem(): string | undefined {
    const { size, oid, algorithm } = this.#file;
    if (this.#doneBytes !== size) return `has ${this.#doneBytes} bytes or more, expected ${size}`;
    const digest = this.#hash.copy().digest("hex");
    return digest === oid ? undefined : `has ${algorithm} ${digest}, expected ${oid}`;
  }

  /** Gives the file its final name. @throws {ReadMeError} `ERR_WRITE_FAILED`; no file has that name then */
  async finish(): Promise<void> {
    try {
      // Otherwise a crash of the machine can leave the final name on an empty file.
      await this.#handle.sync();
      await this.#handle.close();
      await renamePatiently(this.#path, this.#blobPath);
    } catch (cause) {
      throw writeError(this.#blobPath, cause);
    }
  }

  /** Ends the download early and keeps its bytes for the next one. */
  async leave(): Promise<void> {
    const { size } = await this.#handle.stat();
    if (size === 0) return this.discard();
    await this.#handle.close();
    await rename(this.#path, `${this.#blobPath}.readme-moe.incomplete`);
  }

  /** Ends the download early and removes its bytes. */
  async discard(): Promise<void> {
    await this.#handle.close();
    await rm(this.#path, { force: true });
  }

  async #readLeftover(signal: AbortSignal | undefined): Promise<void> {
    const { size } = await this.#handle.stat();
    if (size > this.#file.size) return this.restart();
    const chunk = Buffer.allocUnsafe(Math.min(size, CHUNK_BYTES));
    while (this.#doneBytes < size) {
      signal?.throwIfAborted();
      const { bytesRead } = await this.#handle.read(chunk, 0, chunk.byteLength, this.#doneBytes);
      if (bytesRead === 0) return;
      this.#hash.update(chunk.subarray(0, bytesRead));
      this.#doneBytes += bytesRead;
    }
  }
}

/** Starts the hash of a file. Git hashes the kind and length of a file before its content. */
function startHash({ algorithm, size }: RemoteFile): Hash {
  return algorithm === "sha256" ? createHash("sha256") : createHash("sha1").update(`blob ${size}\0`);
}

/** Returns a path that no other download writes to. The longest left file is moved there; the others are removed. */
async function claimPartial(blobPath: string): Promise<string> {
  const own = `${blobPath}.readme-moe-${OWN_MARK}-${randomBytes(4).toString("hex")}.incomplete`;
  let isTaken = false;
  for (const { path } of (await leftovers(blobPath)).sort((a, b) => b.size - a.size)) {
    if (isTaken) await rm(path, { force: true });
    // The renaming fails when another download has taken the file meanwhile.
    else
      isTaken = await rename(path, own).then(
        () => true,
        () => false,
      );
  }
  return own;
}

/** Returns the number of bytes from which a download to `blobPath` would continue. */
export async function leftBytes(blobPath: string): Promise<number> {
  const sizes = (await leftovers(blobPath)).map(({ size }) => size);
  return Math.max(0, ...sizes);
}

async function leftovers(blobPath: string): Promise<{ readonly path: string; readonly size: number }[]> {
  const folder = dirname(blobPath);
  const prefix = `${basename(blobPath)}.readme-moe`;
  const found = [];
  for (const name of await readdir(folder).catch(() => [])) {
    if (!name.startsWith(prefix)) continue;
    const path = join(folder, name);
    const state = await stat(path).catch(() => undefined);
    if (state?.isFile() && isLeft(name.slice(prefix.length), state.mtimeMs)) found.push({ path, size: state.size });
  }
  return found;
}

/** A download that gets no byte for minutes fails, so it never looks ended while it runs. */
function isLeft(suffix: string, writtenAtMs: number): boolean {
  if (suffix === ".incomplete") return true;
  const owner = ownerOf(/^-(.*)\.incomplete$/.exec(suffix)?.[1] ?? "");
  return owner !== undefined && hasEnded(owner, writtenAtMs);
}

// Downloads one file. @huggingface/hub also can, but it starts over after every interruption, checks no hash, and
// leaves an incomplete file under its final name when the connection ends without an error (2.17.5).

// An attempt that transfers this much counts as a success: large files over bad lines take many attempts.
const WORTHWHILE_BYTES = 1 << 20;

type Context = Pick<DownloadRequest, "onProgress" | "signal" | "delay"> & { readonly client: HubClient };

/**
 * Downloads a file to `blobPath`, unless it is there. Continues where an earlier download was interrupted.
 *
 * @throws {ReadMeError} `ERR_FILE_CORRUPT` when the content has the wrong hash or size twice, `ERR_WRITE_FAILED`, or
 *   the meaning of the hub's refusal; `blobPath` is then unchanged
 */
export async function fetchBlob(file: RemoteFile, blobPath: string, context: Context): Promise<void> {
  const folder = dirname(blobPath);
  await makeFolder(folder).catch((cause: unknown) => {
    throw writeError(folder, cause);
  });
  await exclusively(blobPath, context.signal, async () => {
    if ((await fileSize(blobPath)) === file.size) return;
    const partial = await PartialFile.open(blobPath, file, context.signal);
    try {
      await receiveRight(partial, file, context);
      await partial.finish();
    } catch (error) {
      // The caller has to know the first error, which a failing clean-up must not hide.
      const isDiskAtFault = error instanceof ReadMeError && error.code === "ERR_WRITE_FAILED";
      await (isDiskAtFault ? partial.discard() : partial.leave()).catch(() => undefined);
      throw error;
    }
  });
}

async function receiveRight(partial: PartialFile, file: RemoteFile, context: Context): Promise<void> {
  for (let isSecond = false; ; isSecond = true) {
    await retrying(() => receiveRest(partial, file, context), context);
    const problem = partial.problem();
    if (problem === undefined) return;
    await partial.restart();
    if (isSecond) {
      throw corrupt(file.url, `the downloaded content ${problem} (tried twice)`);
    }
  }
}

async function receiveRest(partial: PartialFile, file: RemoteFile, context: Context): Promise<void> {
  const from = partial.doneBytes;
  context.onProgress({ file: file.name, doneBytes: from, ofBytes: file.size });
  if (from >= file.size) return;
  // Compressed content could be neither counted nor continued.
  const headers = { "accept-encoding": "identity", ...(from > 0 ? { range: `bytes=${from}-` } : {}) };
  const answer = await context.client.get(file.url, headers);
  if (from > 0 && !isContinuation(answer, from, file)) {
    await partial.restart();
    if (answer.response.status !== 200) {
      await answer.response.body?.cancel();
      return receiveRest(partial, file, context);
    }
  }
  await receiveBody(partial, answer.response, file, context);
}

async function receiveBody(
  partial: PartialFile,
  response: Response,
  file: RemoteFile,
  { onProgress }: Context,
): Promise<void> {
  const from = partial.doneBytes;
  const cut = (reason: string, cause?: unknown): TransientFailure => {
    const message = `${file.url}: the connection was cut at byte ${partial.doneBytes} of ${file.size} (${reason})`;
    return new TransientFailure(new ReadMeError("ERR_HUB_UNREACHABLE", message, { cause }), {
      isWorthwhile: partial.doneBytes - from >= WORTHWHILE_BYTES,
    });
  };
  if (response.body === null) throw cut("the answer has no content");
  const reader = response.body.getReader();
  try {
    while (partial.doneBytes <= file.size) {
      const { value, done } = await reader.read().catch((cause: unknown) => {
        throw cut(reasonOf(cause), cause);
      });
      if (done) break;
      await partial.append(value);
      onProgress({ file: file.name, doneBytes: partial.doneBytes, ofBytes: file.size });
    }
  } finally {
    // Ends the connection when the loop ended early. A body that has failed fails again.
    await reader.cancel().catch(() => undefined);
  }
  if (partial.doneBytes < file.size) throw cut("the answer ended");
}

/** Checks that an answer is the rest, from byte `from` on, of the content whose beginning is there. */
function isContinuation({ response, etag }: HubResponse, from: number, { size, oid }: RemoteFile): boolean {
  if (response.status !== 206 || (etag !== undefined && etag !== oid)) return false;
  return response.headers.get("content-range") === `bytes ${from}-${size - 1}/${size}`;
}

const running = new Map<string, Promise<void>>();

/** Runs `work` when no other work of this process runs under `key`. The wait can be aborted. */
export async function exclusively<Result>(
  key: string,
  signal: AbortSignal | undefined,
  work: () => Promise<Result>,
): Promise<Result> {
  for (let other = running.get(key); other !== undefined; other = running.get(key)) await unlessAborted(other, signal);
  const result = work();
  const end = result.then(
    () => undefined,
    () => undefined,
  );
  running.set(key, end);
  try {
    return await result;
  } finally {
    running.delete(key);
  }
}

async function unlessAborted(promise: Promise<void>, signal: AbortSignal | undefined): Promise<void> {
  if (signal === undefined) return promise;
  signal.throwIfAborted();
  const listening = new AbortController();
  const aborted = new Promise<void>((resolve) => {
    signal.addEventListener("abort", () => resolve(), { signal: listening.signal });
  });
  await Promise.race([promise, aborted]);
  listening.abort();
  signal.throwIfAborted();
}
