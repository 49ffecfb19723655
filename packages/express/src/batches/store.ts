// Batches in a folder, and their state, which follows from facts. Times in seconds since 1970.
//
//   <id>/batch.json      what the client asked for
//   <id>/cancel.json     the client has cancelled it
//   <id>/progress.json   how far it is, the only fact that is replaced
//   <id>/answers-<n>     lines that were answered in the n-th run of the batch, one by one
//   <id>/end.json        how it ended
//
// Each run writes answers of its own, and the first end stays, so a process that was taken for dead spoils nothing.

import { randomBytes } from "node:crypto";
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { byCreation, createJson, isLeftBehind, namesIn, readJson, replaceJson } from "./files.ts";
import { agedBatches, type BatchLimits, displacedBatches, tooManyBatches } from "./options.ts";
import { BATCH_ENDPOINTS, type BatchAnswer, batchError, WINDOW } from "./schemas.ts";

const batchRecord = z.object({
  id: z.string(),
  client: z.string(),
  /** Name of the client's key. */
  key: z.string().optional(),
  inputFileId: z.string(),
  endpoint: z.enum(BATCH_ENDPOINTS),
  createdAt: z.int(),
  expiresAt: z.int(),
  metadata: z.record(z.string(), z.string()).nullable(),
  /** Time for which its answers are kept. */
  outputSeconds: z.int().optional(),
});

/** Request of a client for a batch. */
export type BatchRecord = z.infer<typeof batchRecord>;

const progress = z.object({
  /** Requests of the batch, once the input was checked. */
  total: z.int().optional(),
  completed: z.int(),
  failed: z.int(),
  inProgressAt: z.int().optional(),
  finalizingAt: z.int().optional(),
});

export type Progress = z.infer<typeof progress>;

const batchEnd = z.object({
  status: z.enum(["completed", "failed", "expired", "cancelled"]),
  at: z.int(),
  ...progress.shape,
  total: z.int(),
  outputFileId: z.string().optional(),
  errorFileId: z.string().optional(),
  errors: z.array(batchError).optional(),
});

export type BatchEnd = z.infer<typeof batchEnd>;

const cancelMark = z.object({ at: z.int() });

/** All that is known of a batch. */
export interface BatchFacts {
  readonly record: BatchRecord;
  readonly progress?: Progress | undefined;
  readonly cancellingAt?: number | undefined;
  readonly end?: BatchEnd | undefined;
}

const BATCH_ID = /^batch_[0-9a-f]{24}$/;
const ANSWERS = /^answers-(\d{1,9})$/;

export class BatchStore {
  readonly #folder: string;
  readonly #limits: BatchLimits;
  readonly #nowSeconds: () => number;
  /** Batches that have ended, by id. Nothing about them changes. */
  readonly #ended = new Map<string, BatchFacts>();

  constructor(folder: string, limits: BatchLimits, nowSeconds: () => number) {
    this.#folder = folder;
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
    await mkdir(this.folderOf(record.id));
    await replaceJson(join(this.folderOf(record.id), "batch.json"), record);
    return record;
  }

  /** Lists all batches, in the order of their creation. */
  async list(): Promise<readonly BatchFacts[]> {
    const all = await Promise.all((await namesIn(this.#folder)).map((id) => this.read(id)));
    const known = all.filter((facts) => facts !== undefined);
    const isThere = new Set(known.map(({ record }) => record.id));
    for (const id of this.#ended.keys()) if (!isThere.has(id)) this.#ended.delete(id);
    return known.toSorted((a, b) => byCreation(a.record, b.record));
  }

  /** Returns the facts of a batch. One whose description is damaged does not exist. */
  async read(id: string): Promise<BatchFacts | undefined> {
    if (!BATCH_ID.test(id)) return undefined;
    const ended = this.#ended.get(id);
    if (ended) return ended;
    const path = (name: string): string => join(this.folderOf(id), `${name}.json`);
    const [record, mark, latest, end] = await Promise.all([
      readJson(path("batch"), batchRecord),
      readJson(path("cancel"), cancelMark),
      readJson(path("progress"), progress),
      readJson(path("end"), batchEnd),
    ]);
    if (!record) return undefined;
    const facts = { record, cancellingAt: mark?.at, progress: latest, end };
    if (end) this.#ended.set(id, facts);
    return facts;
  }

  async cancel(id: string): Promise<void> {
    await createJson(join(this.folderOf(id), "cancel.json"), { at: this.#nowSeconds() });
  }

  async note(id: string, latest: Progress): Promise<void> {
    await replaceJson(join(this.folderOf(id), "progress.json"), latest);
  }

  /** Ends a batch. @returns false if another process has ended it, whose end stays */
  async end(id: string, end: BatchEnd): Promise<boolean> {
    return createJson(join(this.folderOf(id), "end.json"), end);
  }

  /** Lists the numbers of a batch's runs, of which the last one is the newest. */
  async runsOf(id: string): Promise<readonly number[]> {
    const names = await namesIn(this.folderOf(id));
    const numbers = names.map((name) => Number(ANSWERS.exec(name)?.[1] ?? 0));
    return numbers.filter((number) => number > 0).toSorted((a, b) => a - b);
  }

  answersPath(id: string, run: number): string {
    return join(this.folderOf(id), `answers-${run}`);
  }

  /** Removes the answers of an ended batch, which are in files now. */
  async removeAnswers(id: string): Promise<void> {
    for (const run of await this.runsOf(id)) await rm(this.answersPath(id, run), { force: true });
  }

  /** Removes ended batches that are too old, and what killed processes have left. */
  async sweep(): Promise<void> {
    const now = this.#nowSeconds();
    const known = await this.list();
    for (const id of agedBatches(known.map(limited), now, this.#limits)) await this.#remove(id);
    const ids = new Set(known.map(({ record }) => record.id));
    for (const name of await namesIn(this.#folder)) {
      if (!ids.has(name) && (await isLeftBehind(join(this.#folder, name), now))) await this.#remove(name);
    }
  }

  folderOf(id: string): string {
    return join(this.#folder, id);
  }

  async #remove(id: string): Promise<void> {
    // A batch without its description does not exist.
    await rm(join(this.folderOf(id), "batch.json"), { force: true });
    await rm(this.folderOf(id), { recursive: true, force: true });
    this.#ended.delete(id);
  }
}

function limited({ record: { id, client, createdAt }, end }: BatchFacts): Parameters<typeof agedBatches>[0][number] {
  return { id, client, createdAt, endedAt: end?.at };
}

export function statusOf({ progress: latest, cancellingAt, end }: Omit<BatchFacts, "record">): BatchAnswer["status"] {
  if (end) return end.status;
  if (cancellingAt !== undefined) return "cancelling";
  if (latest?.finalizingAt !== undefined) return "finalizing";
  return latest?.total === undefined ? "validating" : "in_progress";
}

export type NextAct = "run" | "complete" | "expire" | "cancel";

/** Decides what happens to a batch. One whose answers are all there is complete, also after its time. */
export function nextAct(
  batch: {
    readonly expiresAt: number;
    readonly isCancelled: boolean;
    readonly total: number;
    readonly answered: number;
  },
  nowSeconds: number,
): NextAct {
  if (batch.isCancelled) return "cancel";
  if (batch.answered >= batch.total) return "complete";
  return nowSeconds >= batch.expiresAt ? "expire" : "run";
}

/** Describes a batch as clients see it. */
export function batchAnswerOf(facts: BatchFacts): BatchAnswer {
  const { record, progress: latest, cancellingAt, end } = facts;
  const { total = 0, completed = 0, failed = 0 } = end ?? latest ?? {};
  const endedAs = (status: BatchEnd["status"]): number | null => (end?.status === status ? end.at : null);
  const errors = end?.errors;
  return {
    id: record.id,
    object: "batch",
    endpoint: record.endpoint,
    errors: errors ? { object: "list", data: errors } : null,
    input_file_id: record.inputFileId,
    completion_window: WINDOW,
    status: statusOf(facts),
    output_file_id: end?.outputFileId ?? null,
    error_file_id: end?.errorFileId ?? null,
    created_at: record.createdAt,
    in_progress_at: (end ?? latest)?.inProgressAt ?? null,
    expires_at: record.expiresAt,
    finalizing_at: (end ?? latest)?.finalizingAt ?? null,
    completed_at: endedAs("completed"),
    failed_at: endedAs("failed"),
    expired_at: endedAs("expired"),
    cancelling_at: cancellingAt ?? null,
    cancelled_at: endedAs("cancelled"),
    request_counts: { total, completed, failed },
    metadata: record.metadata,
  };
}
