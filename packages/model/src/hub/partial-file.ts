import { createHash, type Hash } from "node:crypto";
import { type FileHandle, open, rename, rm } from "node:fs/promises";
import { renamePatiently } from "../files/rename.ts";
import { claimPartial, leftoverOf } from "./claim-partial.ts";
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
