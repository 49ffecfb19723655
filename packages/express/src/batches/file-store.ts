// Files in a folder, each with its owner. Names come from here, never from clients.

import { randomBytes } from "node:crypto";
import { createReadStream } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { isDamage, namesIn, readJsonFile, writeChunks, writeJson, type Root } from "./folder.ts";
import { missingRoom, type FileLimits } from "./limits.ts";
import { storeFull } from "./refusals.ts";
import type { FileAnswer } from "./schemas.ts";

const fileRecord = z.object({
  id: z.string(),
  client: z.string(),
  bytes: z.int().min(0),
  createdAt: z.int(),
  expiresAt: z.int(),
  filename: z.string(),
  purpose: z.enum(["batch", "batch_output"]),
});

/** A stored file. Times in seconds since 1970. */
export type FileRecord = z.infer<typeof fileRecord>;

/** A file that is to be stored. */
export interface NewFile extends Pick<FileRecord, "client" | "filename" | "purpose"> {
  /** Time for which it is kept. @default that of the store */
  readonly keptSeconds?: number | undefined;
}

/** Limits of a store of files. */
export interface FileStoreLimits extends FileLimits {
  readonly maxAgeSeconds: number;
}

/** A file that is arriving. */
interface Arriving {
  readonly client: string;
  bytes: number;
}

const FILE_ID = /^file-[0-9a-f]{24}$/;

/** Keeps files. A file is there whole or not at all. */
export class FileStore {
  readonly #root: Root;
  readonly #limits: FileStoreLimits;
  readonly #nowSeconds: () => number;
  readonly #arriving = new Set<Arriving>();
  /** Records by id, which never change. */
  readonly #records = new Map<string, FileRecord>();

  constructor(root: Root, limits: FileStoreLimits, nowSeconds: () => number) {
    this.#root = root;
    this.#limits = limits;
    this.#nowSeconds = nowSeconds;
  }

  /** Lists all files, in the order of their creation, expired ones included. */
  async list(): Promise<readonly FileRecord[]> {
    const names = (await namesIn(join(this.#root.path, "files"))).filter((name) => FILE_ID.test(name));
    const isThere = new Set(names);
    for (const id of this.#records.keys()) if (!isThere.has(id)) this.#records.delete(id);
    const records = await Promise.all(names.map(async (id) => this.#records.get(id) ?? this.#read(id)));
    return records
      .filter((record) => record !== undefined)
      .toSorted((a, b) => a.createdAt - b.createdAt || (a.id < b.id ? -1 : 1));
  }

  /** Lists the files of a client. */
  async listOf(client: string): Promise<readonly FileRecord[]> {
    return (await this.list()).filter((record) => this.#isFor(record, client));
  }

  /** Returns a file of a client. */
  async get(id: string, client: string): Promise<FileRecord | undefined> {
    const record = FILE_ID.test(id) ? await this.#read(id) : undefined;
    return record && this.#isFor(record, client) ? record : undefined;
  }

  /**
   * Stores a client's file, as large as there is room for.
   *
   * @param describe - called when all chunks are there
   * @throws {ApiError} 413 `storage_full`, and whatever `chunks` and `describe` throw
   */
  async receive(
    client: string,
    chunks: AsyncIterable<Uint8Array>,
    describe: () => Promise<NewFile>,
  ): Promise<FileRecord> {
    // Reads what other processes have stored.
    await this.list();
    const arriving: Arriving = { client, bytes: 0 };
    const check = (): void => {
      const others = [...this.#records.values(), ...this.#arriving].filter((file) => file !== arriving);
      const missing = missingRoom(others, arriving, this.#limits);
      if (missing) throw storeFull(missing);
    };
    check();
    this.#arriving.add(arriving);
    async function* counted(): AsyncGenerator<Uint8Array, void> {
      for await (const chunk of chunks) {
        arriving.bytes += chunk.byteLength;
        check();
        yield chunk;
      }
    }
    try {
      const stored = await this.#publish(newFileId(), counted(), describe);
      if (stored) return stored;
      throw new Error("Expected a new id to be free");
    } finally {
      this.#arriving.delete(arriving);
    }
  }

  /** Stores a file whatever room there is. A file with its id stays as it is. */
  async put(id: string, file: NewFile, chunks: AsyncIterable<Uint8Array>): Promise<void> {
    await this.#publish(id, chunks, async () => file);
  }

  /** Reads the bytes of a file. */
  content(id: string): AsyncIterable<Buffer> {
    return createReadStream(this.contentPath(id));
  }

  /** Path of the bytes of a file. */
  contentPath(id: string): string {
    return join(this.#folderOf(id), "content");
  }

  /** Removes expired files. @param used - files that stay */
  async sweep(used: ReadonlySet<string>): Promise<void> {
    const now = this.#nowSeconds();
    for (const { id, expiresAt } of await this.list()) if (expiresAt <= now && !used.has(id)) await this.remove(id);
  }

  async remove(id: string): Promise<void> {
    await this.#root.remove(join("files", id));
    this.#records.delete(id);
  }

  async #publish(
    id: string,
    chunks: AsyncIterable<Uint8Array>,
    describe: () => Promise<NewFile>,
  ): Promise<FileRecord | undefined> {
    const records: FileRecord[] = [];
    const write = async (folder: string): Promise<void> => {
      const bytes = await writeChunks(join(folder, "content"), chunks);
      const { keptSeconds = this.#limits.maxAgeSeconds, ...file } = await describe();
      const createdAt = this.#nowSeconds();
      const record = { id, bytes, createdAt, expiresAt: createdAt + keptSeconds, ...file };
      records.push(record);
      await writeJson(join(folder, "file.json"), record);
    };
    const isNew = await this.#root.publish(join("files", id), write);
    const [record] = records;
    if (!isNew || !record) return undefined;
    this.#records.set(id, record);
    return record;
  }

  async #read(id: string): Promise<FileRecord | undefined> {
    try {
      const record = fileRecord.parse(await readJsonFile(join(this.#folderOf(id), "file.json")));
      this.#records.set(id, record);
      return record;
    } catch (error) {
      // A file that is not there, or whose description is damaged, does not exist.
      if (isDamage(error)) return undefined;
      throw error;
    }
  }

  #isFor(record: FileRecord, client: string): boolean {
    return record.client === client && record.expiresAt > this.#nowSeconds();
  }

  #folderOf(id: string): string {
    return join(this.#root.path, "files", id);
  }
}

/** Makes the id of a file. @param seed - 24 hexadecimal digits. @default random ones */
export function newFileId(seed: string = randomBytes(12).toString("hex")): string {
  return `file-${seed}`;
}

/** Describes a file as clients see it. */
export function fileAnswerOf(record: FileRecord): FileAnswer {
  const { id, bytes, createdAt: created_at, expiresAt: expires_at, filename, purpose } = record;
  return { id, object: "file", bytes, created_at, expires_at, filename, purpose, status: "processed" };
}
