import { createHash, type Hash, randomBytes } from "node:crypto";
import { type FileHandle, open, readdir, rename, rm, stat } from "node:fs/promises";
import { hostname } from "node:os";
import { basename, dirname, join } from "node:path";
import { renamePatiently } from "../files/write-file.ts";
import { writeError } from "./hub-cache.ts";
import type { RemoteFile } from "./hub-repository.ts";

const CHUNK_BYTES = 1 << 20;

/** A file while it is downloaded: filled from the front, hashed as it grows, and put in its place when it is right. */
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

  /** With what an earlier download left of it, if anything. @throws {ReadMeError} `ERR_WRITE_FAILED` */
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

  /** `[0, doneBytes)` is there. More than the file's size when the server sent too much. */
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

  /** Forgets what is there. */
  async restart(): Promise<void> {
    this.#hash = startHash(this.#file);
    this.#doneBytes = 0;
    await this.#handle.truncate(0).catch((cause: unknown) => {
      throw writeError(this.#blobPath, cause);
    });
  }

  /** What is wrong with the content once it is all there; `undefined` when it is what the hub promised. */
  problem(): string | undefined {
    const { size, oid, algorithm } = this.#file;
    if (this.#doneBytes !== size) return `has ${this.#doneBytes} bytes or more, expected ${size}`;
    const digest = this.#hash.copy().digest("hex");
    return digest === oid ? undefined : `has ${algorithm} ${digest}, expected ${oid}`;
  }

  /** Gives it its final name. @throws {ReadMeError} `ERR_WRITE_FAILED`; nothing has that name then */
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

  /** Ends the download early. What is there is kept for the next one. */
  async leave(): Promise<void> {
    const { size } = await this.#handle.stat();
    if (size === 0) return this.discard();
    await this.#handle.close();
    await rename(this.#path, leftoverOf(this.#blobPath));
  }

  /** Ends the download early and removes what is there. */
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

/** Git hashes a file after its kind and length. */
function startHash({ algorithm, size }: RemoteFile): Hash {
  return algorithm === "sha256" ? createHash("sha256") : createHash("sha1").update(`blob ${size}\0`);
}

// Names of files that are being downloaded. They lie beside the blob that they will be:
//
//   <hash>.readme-moe.incomplete                       left by a download that ended early; anyone may go on with it
//   <hash>.readme-moe-<host>-<pid>-<id>.incomplete     one download is writing it
//
// A download takes over what is left by renaming it, which only one of several can do. Those who come too late start
// from nothing, so two processes cost bandwidth but never write to one file. (Other tools' `.incomplete` files are let
// be: they may be in use, and are not always filled from the front.)

const HOST = createHash("sha256").update(hostname()).digest("hex").slice(0, 8);
const OWNED = /^-(?<host>[0-9a-f]{8})-(?<pid>\d+)-[0-9a-f]{8}\.incomplete$/;
// A download that gets no byte for minutes fails, so a file of another machine that nobody wrote to for so long is left.
const ABANDONED_AFTER_MS = 3_600_000;

/** The name under which a download leaves what it has. */
export function leftoverOf(blobPath: string): string {
  return `${blobPath}.readme-moe.incomplete`;
}

/**
 * A path that no other download writes to. The longest part that is left of earlier ones is there already; the
 * others are removed.
 */
export async function claimPartial(blobPath: string): Promise<string> {
  const own = `${blobPath}.readme-moe-${HOST}-${process.pid}-${randomBytes(4).toString("hex")}.incomplete`;
  let isTaken = false;
  for (const { path } of (await leftovers(blobPath)).sort((a, b) => b.size - a.size)) {
    if (isTaken) await rm(path, { force: true });
    // Another download may have taken it meanwhile.
    else
      isTaken = await rename(path, own).then(
        () => true,
        () => false,
      );
  }
  return own;
}

async function leftovers(blobPath: string): Promise<{ readonly path: string; readonly size: number }[]> {
  const folder = dirname(blobPath);
  const prefix = `${basename(blobPath)}.readme-moe`;
  const found = [];
  for (const name of await readdir(folder)) {
    if (!name.startsWith(prefix)) continue;
    const path = join(folder, name);
    const state = await stat(path).catch(() => undefined);
    if (state?.isFile() && isLeft(name.slice(prefix.length), state.mtimeMs)) found.push({ path, size: state.size });
  }
  return found;
}

function isLeft(suffix: string, writtenAtMs: number): boolean {
  if (suffix === ".incomplete") return true;
  const { host, pid } = OWNED.exec(suffix)?.groups ?? {};
  if (host === undefined) return false;
  if (host !== HOST) return writtenAtMs < Date.now() - ABANDONED_AFTER_MS;
  // In a container the process that was killed may have had this one's number.
  if (Number(pid) === process.pid) return writtenAtMs < Date.now() - process.uptime() * 1000;
  return !isAlive(Number(pid));
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return !(error instanceof Error && "code" in error && error.code === "ESRCH");
  }
}
