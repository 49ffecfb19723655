// Files of clients in a folder, and how small facts are written beside each other. Names come from here, never from
// clients. A file exists once its description does, which appears whole after its bytes.

import { randomBytes, randomUUID } from "node:crypto";
import { createReadStream } from "node:fs";
import { link, open, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { missingRoom, storeFull, type ResolvedBatchesOptions } from "./options.ts";
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

type FileStoreLimits = Pick<ResolvedBatchesOptions, "maxFiles" | "maxBytes" | "maxClientShare" | "maxAgeSeconds">;

const FILE_ID = /^file-[0-9a-f]{24}$/;

/** Keeps files. A file is there whole or not at all. */
export class FileStore {
  readonly #folder: string;
  readonly #limits: FileStoreLimits;
  readonly #nowSeconds: () => number;
  readonly #arriving = new Set<{ readonly client: string; bytes: number }>();
  /** Records by id, which never change. */
  readonly #records = new Map<string, FileRecord>();

  constructor(folder: string, limits: FileStoreLimits, nowSeconds: () => number) {
    this.#folder = folder;
    this.#limits = limits;
    this.#nowSeconds = nowSeconds;
  }

  /** Lists all files, in the order of their creation, expired ones included. */
  async list(): Promise<readonly FileRecord[]> {
    const names = (await namesIn(this.#folder)).filter((name) => name.endsWith(".json"));
    const ids = names.map((name) => name.slice(0, -".json".length)).filter((id) => FILE_ID.test(id));
    const isThere = new Set(ids);
    for (const id of this.#records.keys()) if (!isThere.has(id)) this.#records.delete(id);
    const records = await Promise.all(ids.map(async (id) => this.#records.get(id) ?? this.#read(id)));
    return records.filter((record) => record !== undefined).toSorted(byCreation);
  }

  async listOf(client: string): Promise<readonly FileRecord[]> {
    return (await this.list()).filter((record) => this.#isFor(record, client));
  }

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
    const arriving = { client, bytes: 0 };
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
      return await this.#store(newFileId(), counted(), describe);
    } finally {
      this.#arriving.delete(arriving);
    }
  }

  /** Stores a file under a new id, whatever room there is. */
  async put(id: string, file: NewFile, chunks: AsyncIterable<Uint8Array>): Promise<void> {
    await this.#store(id, chunks, async () => file);
  }

  content(id: string): AsyncIterable<Buffer> {
    return createReadStream(this.contentPath(id));
  }

  contentPath(id: string): string {
    return join(this.#folder, id);
  }

  /** Removes expired files, and what killed processes have left. @param used - files that stay */
  async sweep(used: ReadonlySet<string>): Promise<void> {
    const now = this.#nowSeconds();
    for (const { id, expiresAt } of await this.list()) if (expiresAt <= now && !used.has(id)) await this.remove(id);
    for (const name of await namesIn(this.#folder)) {
      const isKept = this.#records.has(name.replace(/\.json$/, ""));
      if (!isKept && (await isLeftBehind(join(this.#folder, name), now))) await this.remove(name);
    }
  }

  async remove(id: string): Promise<void> {
    await rm(`${this.contentPath(id)}.json`, { force: true });
    await rm(this.contentPath(id), { force: true });
    this.#records.delete(id);
  }

  async #store(id: string, chunks: AsyncIterable<Uint8Array>, describe: () => Promise<NewFile>): Promise<FileRecord> {
    const path = this.contentPath(id);
    try {
      const bytes = await writeChunks(path, chunks);
      const { keptSeconds = this.#limits.maxAgeSeconds, ...file } = await describe();
      const createdAt = this.#nowSeconds();
      const record = { id, bytes, createdAt, expiresAt: createdAt + keptSeconds, ...file };
      await replaceJson(`${path}.json`, record);
      this.#records.set(id, record);
      return record;
    } catch (error) {
      await rm(path, { force: true });
      throw error;
    }
  }

  async #read(id: string): Promise<FileRecord | undefined> {
    const record = await readJson(`${this.contentPath(id)}.json`, fileRecord);
    if (record) this.#records.set(id, record);
    return record;
  }

  #isFor(record: FileRecord, client: string): boolean {
    return record.client === client && record.expiresAt > this.#nowSeconds();
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

export function byCreation(a: Pick<FileRecord, "id" | "createdAt">, b: Pick<FileRecord, "id" | "createdAt">): number {
  return a.createdAt - b.createdAt || (a.id < b.id ? -1 : 1);
}

/** Writes a small file that appears whole and survives a crash. An existing one is replaced. */
export async function replaceJson(path: string, value: object): Promise<void> {
  await writeWhole(path, value, rename);
}

/** Writes a small file that appears whole and survives a crash. @returns false if there is one, which stays */
export async function createJson(path: string, value: object): Promise<boolean> {
  try {
    await writeWhole(path, value, link);
    return true;
  } catch (error) {
    if (hasCode(error, "EEXIST")) return false;
    throw error;
  }
}

async function writeWhole(path: string, value: object, place: typeof rename): Promise<void> {
  const temporary = `${path}.${randomUUID()}.tmp`;
  try {
    await writeFile(temporary, JSON.stringify(value), { flush: true });
    await place(temporary, path);
  } finally {
    await rm(temporary, { force: true });
  }
}

/** Reads a small file. @returns `undefined` if it does not exist or is damaged */
export async function readJson<Schema extends z.ZodType>(
  path: string,
  schema: Schema,
): Promise<z.infer<Schema> | undefined> {
  try {
    return schema.parse(JSON.parse(await readFile(path, "utf8")));
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR") || error instanceof SyntaxError || error instanceof z.ZodError) {
      return undefined;
    }
    throw error;
  }
}

/** Lists the names in a folder; none if it does not exist. */
export async function namesIn(path: string): Promise<readonly string[]> {
  try {
    return await readdir(path);
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR")) return [];
    throw error;
  }
}

/** Age of an unfinished write that its writer cannot be busy with any more. */
const LEFT_BEHIND_SECONDS = 24 * 3600;

/** Tells whether nobody writes something any more. */
export async function isLeftBehind(path: string, nowSeconds: number): Promise<boolean> {
  const { mtimeMs } = await stat(path).catch(() => ({ mtimeMs: Infinity }));
  return nowSeconds - mtimeMs / 1000 > LEFT_BEHIND_SECONDS;
}

/** Writes chunks into a new file that survives a crash of the machine. @returns its size in bytes */
async function writeChunks(path: string, chunks: AsyncIterable<Uint8Array>): Promise<number> {
  const handle = await open(path, "wx");
  try {
    let numBytes = 0;
    for await (const chunk of chunks) {
      await handle.appendFile(chunk);
      numBytes += chunk.byteLength;
    }
    await handle.sync();
    return numBytes;
  } finally {
    await handle.close();
  }
}

/** Tells whether an error is one of the system with one of these codes. */
export function hasCode(error: unknown, ...codes: readonly string[]): boolean {
  return error instanceof Error && "code" in error && codes.includes(String(error.code));
}
