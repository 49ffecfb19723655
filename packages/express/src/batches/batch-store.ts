// Batches in a folder that several processes may share. Each fact of a batch is a folder that appears whole and stays:
//
//   <id>/batch.json            what the client asked for
//   <id>/cancel/mark.json      the client has cancelled it
//   <id>/owner-<n>/beat.json   the n-th process that runs it, and how far it is
//   <id>/owner-<n>/answers     lines that this process has answered
//   <id>/end/end.json          how it ended
//
// Owners write only into their own folder. One that was taken for dead can therefore spoil nothing.

import { randomBytes } from "node:crypto";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import type { z } from "zod";
import { hasCode, isDamage, namesIn, readJsonFile, writeJson, type Root } from "./folder.ts";
import { agedBatches, displacedBatches, type BatchLimits } from "./limits.ts";
import { tooManyBatches } from "./refusals.ts";
import {
  batchEnd,
  batchRecord,
  beat as beatSchema,
  cancelMark,
  type BatchEnd,
  type BatchFacts,
  type BatchRecord,
  type Beat,
} from "./state.ts";

const BATCH_ID = /^batch_[0-9a-f]{24}$/;
const END_FILE = "end/end.json";
const OWNER = /^owner-(\d{1,9})$/;

/** Facts of a batch and the number of its newest owner, 0 before the first. */
export interface OwnedFacts extends BatchFacts {
  readonly owner: number;
}

/** Keeps batches. */
export class BatchStore {
  readonly #root: Root;
  readonly #limits: BatchLimits;
  readonly #nowSeconds: () => number;
  /** Batches that have ended, by id. Nothing about them changes. */
  readonly #ended = new Map<string, OwnedFacts>();

  constructor(root: Root, limits: BatchLimits, nowSeconds: () => number) {
    this.#root = root;
    this.#limits = limits;
    this.#nowSeconds = nowSeconds;
  }

  /**
   * Adds a batch.
   *
   * @throws {ApiError} 429 `too_many_batches`
   */
  async add(asked: Omit<BatchRecord, "id" | "createdAt">): Promise<BatchRecord> {
    const held = (await this.list()).map(limited);
    const displaced = displacedBatches(held, asked.client, this.#limits);
    if (!displaced) throw tooManyBatches();
    for (const id of displaced) await this.#remove(id);
    const record = { id: `batch_${randomBytes(12).toString("hex")}`, createdAt: this.#nowSeconds(), ...asked };
    await this.#root.publish(join("batches", record.id), (folder) => writeJson(join(folder, "batch.json"), record));
    return record;
  }

  /** Lists all batches, in the order of their creation. */
  async list(): Promise<readonly OwnedFacts[]> {
    const names = (await namesIn(join(this.#root.path, "batches"))).filter((name) => BATCH_ID.test(name));
    const isThere = new Set(names);
    for (const id of this.#ended.keys()) if (!isThere.has(id)) this.#ended.delete(id);
    const all = await Promise.all(names.map((id) => this.read(id)));
    return all
      .filter((facts) => facts !== undefined)
      .toSorted(({ record: a }, { record: b }) => a.createdAt - b.createdAt || (a.id < b.id ? -1 : 1));
  }

  /** Returns the facts of a batch. One whose files are damaged does not exist. */
  async read(id: string): Promise<OwnedFacts | undefined> {
    if (!BATCH_ID.test(id)) return undefined;
    try {
      return this.#ended.get(id) ?? (await this.#read(id));
    } catch (error) {
      if (isDamage(error)) return undefined;
      throw error;
    }
  }

  /** Notes that the client cancels a batch. Does nothing once it is removed. */
  async cancel(id: string): Promise<void> {
    await this.#fact(id, "cancel", "mark.json", { at: this.#nowSeconds() });
  }

  /**
   * Makes the caller the owner after `owner`.
   *
   * @returns false if another process was first, or if the batch has ended
   */
  async claim(id: string, owner: number): Promise<boolean> {
    try {
      await mkdir(join(this.folderOf(id), `owner-${owner + 1}`));
      // The batch may have ended since the caller read its facts.
      if (!(await this.#json(id, END_FILE, batchEnd))) return true;
      await this.removeOwners(id);
      return false;
    } catch (error) {
      if (hasCode(error, "EEXIST", "ENOENT")) return false;
      throw error;
    }
  }

  /** Shows that an owner lives, and how far it is. Does nothing once the batch has ended and its owners are removed. */
  async beat(id: string, owner: number, beat: Beat): Promise<void> {
    await this.#root.replace(join("batches", id, `owner-${owner}`, "beat.json"), beat);
  }

  /** Path of the answers of an owner. */
  answersPath(id: string, owner: number): string {
    return join(this.folderOf(id), `owner-${owner}`, "answers");
  }

  /** Ends a batch. @returns false if another owner has ended it, whose end stays, or if it is removed */
  end(id: string, end: BatchEnd): Promise<boolean> {
    return this.#fact(id, "end", "end.json", end);
  }

  /** Removes what the owners of an ended batch have written, since the answers are in files now. */
  async removeOwners(id: string): Promise<void> {
    const owners = (await namesIn(this.folderOf(id))).filter((name) => OWNER.test(name));
    for (const name of owners) await this.#root.remove(join("batches", id, name));
  }

  /** Removes ended batches that are too old. */
  async sweep(): Promise<void> {
    const held = (await this.list()).map(limited);
    for (const id of agedBatches(held, this.#nowSeconds(), this.#limits)) await this.#remove(id);
  }

  folderOf(id: string): string {
    return join(this.#root.path, "batches", id);
  }

  async #read(id: string): Promise<OwnedFacts | undefined> {
    const [record, cancel, end, owner] = await Promise.all([
      this.#json(id, "batch.json", batchRecord),
      this.#json(id, "cancel/mark.json", cancelMark),
      this.#json(id, END_FILE, batchEnd),
      this.#newestOwner(id),
    ]);
    if (!record) return undefined;
    const beat = owner === 0 ? undefined : await this.#json(id, `owner-${owner}/beat.json`, beatSchema);
    const facts: OwnedFacts = { record, cancellingAt: cancel?.at, end, owner, beat };
    if (end) this.#ended.set(id, facts);
    return facts;
  }

  async #remove(id: string): Promise<void> {
    await this.#root.remove(join("batches", id));
    this.#ended.delete(id);
  }

  async #newestOwner(id: string): Promise<number> {
    const names = await namesIn(this.folderOf(id));
    return Math.max(0, ...names.map((name) => Number(OWNER.exec(name)?.[1] ?? 0)));
  }

  async #json<Schema extends z.ZodType>(
    id: string,
    path: string,
    schema: Schema,
  ): Promise<z.infer<Schema> | undefined> {
    const json = await readJsonFile(join(this.folderOf(id), path));
    return json === undefined ? undefined : schema.parse(json);
  }

  #fact(id: string, name: string, file: string, value: object): Promise<boolean> {
    return this.#root.publish(join("batches", id, name), (folder) => writeJson(join(folder, file), value));
  }
}

function limited({ record: { id, client, createdAt }, end }: OwnedFacts): Parameters<typeof agedBatches>[0][number] {
  return { id, client, createdAt, endedAt: end?.at };
}
