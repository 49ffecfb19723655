// The folder of saved prompts. Several processes may use it at once: files appear and disappear as a whole.

import { createHash } from "node:crypto";
import { mkdir, open, readdir, rm, stat, utimes } from "node:fs/promises";
import { join } from "node:path";
import { setImmediate as nextTurn } from "node:timers/promises";
import { ReadMeError } from "@readme-moe/core";
import { writeFileAtomically } from "@readme-moe/model";
import { CHECKSUM_BYTES, encodeHead, fileBytes, HEAD_BYTES, headFault, type SavedHead } from "./saved-format.ts";

// Hashing a piece takes some milliseconds, and steps run between pieces.
const PIECE_BYTES = 4 << 20;
const NAME = /^[0-9a-f]{64}\.kv$/;

/** A prompt's pages, or why its file was refused; neither when there is no file. */
export interface SavedPages {
  readonly bytes?: Uint8Array;
  readonly refusal?: string;
}

export class SavedPrompts {
  readonly #folder: string;
  readonly #maxBytes: number;

  constructor(folder: string, maxBytes: number) {
    this.#folder = folder;
    this.#maxBytes = maxBytes;
  }

  /** Reads the pages of a prompt. Files that are damaged, foreign or unreadable are refused. */
  async read(head: SavedHead): Promise<SavedPages> {
    const path = this.#pathOf(head);
    try {
      const file = await open(path);
      try {
        const { size } = await file.stat();
        const start = Buffer.alloc(Math.min(HEAD_BYTES, size));
        await file.read(start, 0, start.length, 0);
        const fault = headFault(start, size, head);
        if (fault !== undefined) return { refusal: `${path}: ${fault}` };
        const content = Buffer.allocUnsafeSlow(size);
        const hash = createHash("sha256");
        const end = size - CHECKSUM_BYTES;
        for (let done = 0; done < size;) {
          const { bytesRead } = await file.read(content, done, Math.min(PIECE_BYTES, size - done), done);
          if (bytesRead === 0) return { refusal: `${path}: ends too early` };
          if (done < end) hash.update(content.subarray(done, Math.min(end, done + bytesRead)));
          done += bytesRead;
        }
        if (!hash.digest().equals(content.subarray(end))) return { refusal: `${path}: its checksum is wrong` };
        // The files that were used last stay longest.
        await utimes(path, new Date(), new Date()).catch(() => undefined);
        return { bytes: content.subarray(encodeHead(head).length, end) };
      } finally {
        await file.close();
      }
    } catch (error) {
      if (codeOf(error) === "ENOENT") return {};
      return { refusal: `${path}: cannot be read: ${messageOf(error)}` };
    }
  }

  /**
   * Writes the pages of a prompt, whole or not at all, and removes the oldest files when there are too many.
   *
   * @param pages - pieces of the pages in order; steps run between two of them
   * @throws {ReadMeError} `ERR_WRITE_FAILED`, also when `pages` throws
   */
  async write(head: SavedHead, pages: Iterable<Uint8Array>): Promise<void> {
    const bytes = fileBytes(head);
    const path = this.#pathOf(head);
    if (bytes > this.#maxBytes) {
      const message = `${path}: takes ${bytes} bytes, and \`savedPromptsBytes\` is ${this.#maxBytes}`;
      throw new ReadMeError("ERR_WRITE_FAILED", message);
    }
    try {
      await mkdir(this.#folder, { recursive: true, mode: 0o700 });
    } catch (cause) {
      throw new ReadMeError("ERR_WRITE_FAILED", `${this.#folder}: cannot be made: ${messageOf(cause)}`, { cause });
    }
    await writeFileAtomically(path, withChecksum(encodeHead(head), pages));
    await this.#prune(path);
  }

  #pathOf({ key }: SavedHead): string {
    return join(this.#folder, `${key}.kv`);
  }

  /** Removes the files that were not used for longest until the others fit. @param newest - stays */
  async #prune(newest: string): Promise<void> {
    const names = (await readdir(this.#folder).catch(() => [])).filter((name) => NAME.test(name));
    const files = await Promise.all(
      names.map(async (name) => {
        const path = join(this.#folder, name);
        // Another process may have removed it.
        const state = await stat(path).catch(() => undefined);
        return { path, bytes: state?.size ?? 0, usedMs: path === newest ? Infinity : (state?.mtimeMs ?? 0) };
      }),
    );
    for (const path of surplus(files, this.#maxBytes)) await rm(path, { force: true }).catch(() => undefined);
  }
}

/** A file of the folder. */
export interface UsedFile {
  readonly path: string;
  readonly bytes: number;
  /** Time of the last use, in ms. */
  readonly usedMs: number;
}

/** Selects the files to remove, so that the ones that were used last fit into `maxBytes`. */
export function surplus(files: readonly UsedFile[], maxBytes: number): readonly string[] {
  const byUse = files.toSorted((a, b) => b.usedMs - a.usedMs || (a.path < b.path ? -1 : 1));
  let total = 0;
  return byUse.filter(({ bytes }) => (total += bytes) > maxBytes).map(({ path }) => path);
}

async function* withChecksum(head: Uint8Array, pages: Iterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const hash = createHash("sha256").update(head);
  yield head;
  for (const piece of pages) {
    hash.update(piece);
    yield piece;
    await nextTurn();
  }
  yield hash.digest();
}

function codeOf(error: unknown): unknown {
  return error instanceof Error && "code" in error ? error.code : undefined;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
