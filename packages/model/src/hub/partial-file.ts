// A file during its download. Its names are beside that of the finished blob:
//
//   <hash>.readme-moe.incomplete                       left by an interrupted download; any download may continue it
//   <hash>.readme-moe-<host>-<pid>-<id>.incomplete     one download is writing it
//
// A download takes over a left file by renaming it, which only one of several can do. A later download starts from
// nothing, so two processes cost bandwidth but never write to one file. `.incomplete` files of other tools are not
// touched: they may be in use, and are not always filled from the front.

import { createHash, type Hash, randomBytes } from "node:crypto";
import { type FileHandle, open, readdir, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { hasEnded, OWN_MARK, ownerOf } from "../cache/process-mark.ts";
import { writeError } from "../files/errors.ts";
import { renamePatiently } from "../files/write-file.ts";
import type { RemoteFile } from "./hub-repository.ts";

const CHUNK_BYTES = 1 << 20;

/** A file that is filled from the front, hashed as it grows, and gets its final name when its hash is right. */
export class PartialFile {
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
