// A batch that this process runs: its input is checked, its lines run, their answers are kept, and it ends.

import { createHash } from "node:crypto";
import { open, type FileHandle } from "node:fs/promises";
import { AnswerLog, answerLine, answerLines, expiredLine, findAnswers, type FoundAnswers } from "./answers.ts";
import type { BatchStore, OwnedFacts } from "./batch-store.ts";
import type { ClientTurns } from "./client-turns.ts";
import { isDoubtful, nextLine, retryAfter } from "./decide.ts";
import { newFileId, type FileStore } from "./file-store.ts";
import { hasCode } from "./folder.ts";
import { checkInput, LinePlaces, parseLine, readLine, type BatchRequest, type CheckedInput } from "./lines.ts";
import { errorCode, runLine, type LineRunner } from "./run-line.ts";
import { nextAct, type BatchEnd, type BatchRecord, type NextAct } from "./state.ts";

/** Services and limits that all batches share. */
export interface BatchServices {
  readonly store: BatchStore;
  readonly files: FileStore;
  readonly runner: LineRunner;
  readonly maxLineBytes: number;
  readonly maxRequests: number;
  /** Checks of input files, of which one runs at a time. */
  readonly checks: ClientTurns;
  readonly nowSeconds: () => number;
  /** Called when something has happened that may let more lines begin. */
  readonly wake: () => void;
}

/** Runs one batch as its owner. */
export class OwnedBatch {
  readonly record: BatchRecord;
  readonly owner: number;
  /** Whether the client has cancelled the batch. */
  isCancelled = false;
  readonly #services: BatchServices;
  readonly #controller = new AbortController();
  readonly #opened: Promise<void>;
  #lines: LinePlaces | undefined;
  #taken = new Uint8Array();
  #from = 0;
  readonly #refused = new Set<number>();
  /** Time at which lines begin again after a refusal, in ms. */
  #refusedUntilMs = 0;
  /** Failures of the engine, by the index of the line. */
  readonly #failures = new Map<number, number>();
  readonly #running = new Set<Promise<void>>();
  #counts = { completed: 0, failed: 0 };
  #total: number | undefined;
  #inProgressAt: number | undefined;
  #finalizingAt: number | undefined;
  #input: FileHandle | undefined;
  #log: AnswerLog | undefined;
  #ending: Promise<void> | undefined;
  #beats = 0;
  #isOver = false;
  #failure: unknown;

  /** @param facts - those before this process became the owner */
  constructor(services: BatchServices, { record, owner, beat, cancellingAt }: OwnedFacts) {
    this.#services = services;
    this.record = record;
    this.owner = owner + 1;
    this.isCancelled = cancellingAt !== undefined;
    this.#total = beat?.total;
    this.#inProgressAt = beat?.inProgressAt;
    this.#counts = { completed: beat?.completed ?? 0, failed: beat?.failed ?? 0 };
    this.#opened = this.#open().catch((error: unknown) => this.#fail(error));
  }

  get client(): string {
    return this.record.client;
  }

  get inFlight(): number {
    return this.#running.size;
  }

  /** Whether the batch has ended, or cannot go on here. */
  get isOver(): boolean {
    return this.#isOver;
  }

  /** Error that keeps the batch from going on here. */
  get failure(): unknown {
    return this.#failure;
  }

  /** Whether a line may begin. */
  hasNext(nowMs: number): boolean {
    return !this.#ending && this.#act() === "run" && nowMs >= this.#refusedUntilMs && this.#next() !== undefined;
  }

  /** Begins the next line, if there is one. */
  begin(): void {
    const index = this.#next();
    if (index === undefined) return;
    this.#taken[index] = 1;
    this.#refused.delete(index);
    while (this.#taken[this.#from] === 1) this.#from++;
    const running = this.#run(index)
      .catch((error: unknown) => this.#fail(error))
      .finally(() => {
        this.#running.delete(running);
        this.#services.wake();
      });
    this.#running.add(running);
  }

  /** Ends the batch if it is time. */
  settle(): void {
    const act = this.#act();
    if (act === undefined || act === "run" || this.#ending) return;
    this.#ending = this.#end(act).catch((error: unknown) => this.#fail(error));
  }

  /** Shows that this owner lives, and how far it is. */
  async beat(isReleased = false): Promise<void> {
    const [total, inProgressAt, finalizingAt] = [this.#total, this.#inProgressAt, this.#finalizingAt];
    const times = { ...(inProgressAt && { inProgressAt }), ...(finalizingAt && { finalizingAt }) };
    const progress = { ...this.#counts, ...(total !== undefined && { total }), ...times };
    const beat = { beat: ++this.#beats, isReleased, ...progress };
    await this.#services.store.beat(this.record.id, this.owner, beat);
  }

  /** Stops without an end, since another process goes on. */
  async abandon(): Promise<void> {
    this.#isOver = true;
    this.#controller.abort();
    await this.#opened;
    await Promise.all([...this.#running, this.#ending]);
    await this.#close();
  }

  #next(): number | undefined {
    if (!this.#lines || this.#isOver) return undefined;
    return nextLine({ total: this.#lines.count, taken: this.#taken, refused: this.#refused, from: this.#from });
  }

  #act(): NextAct | undefined {
    if (this.#isOver || !this.#lines) return undefined;
    const { isCancelled } = this;
    const { completed, failed } = this.#counts;
    const { expiresAt } = this.record;
    const progress = { expiresAt, isCancelled, total: this.#lines.count, answered: completed + failed };
    return nextAct(progress, this.#services.nowSeconds());
  }

  async #open(): Promise<void> {
    const { files, store, maxLineBytes, maxRequests, checks, nowSeconds, wake } = this.#services;
    const { id, inputFileId, endpoint } = this.record;
    const path = files.contentPath(inputFileId);
    const limits = { endpoint, maxLineBytes, maxRequests };
    const { signal } = this.#controller;
    const check = (): Promise<CheckedInput> => checkInput(path, limits, signal).catch(missingFile);
    const { lines, errors } = await checks.run(this.client, signal, check);
    if (errors.length > 0) {
      const end = { total: 0, completed: 0, failed: 0, errors: [...errors] };
      const isFirst = await store.end(id, { status: "failed", at: nowSeconds(), ...end });
      this.#isOver = true;
      if (isFirst) await store.removeOwners(id);
      return wake();
    }
    const answered = await findAnswers(this.#answerPaths(this.owner - 1), lines.count);
    this.#counts = { ...answered.counts };
    this.#taken = Uint8Array.from({ length: lines.count }, (_, index) => (answered.has(index) ? 1 : 0));
    this.#input = await open(path);
    this.#log = await AnswerLog.create(store.answersPath(id, this.owner));
    this.#total = lines.count;
    this.#inProgressAt ??= nowSeconds();
    this.#lines = lines;
    wake();
  }

  async #run(index: number): Promise<void> {
    const { runner } = this.#services;
    const { record } = this;
    const { signal } = this.#controller;
    const [line, bytes] = await this.#line(index);
    const answer = await runLine(runner, { record, line, bytes, signal });
    if (signal.aborted) return;
    const failures = this.#failures.get(index) ?? 0;
    const code = answer.status < 400 ? undefined : errorCode(answer.text);
    const waitMs = retryAfter({ ...answer, code, failures });
    if (waitMs !== undefined) {
      if (isDoubtful(code)) this.#failures.set(index, failures + 1);
      this.#refused.add(index);
      // Other lines would most likely be refused, too.
      this.#refusedUntilMs = Math.max(this.#refusedUntilMs, performance.now() + waitMs);
      return;
    }
    this.#failures.delete(index);
    await this.#log?.append(answerLine({ batchId: record.id, index, customId: line.customId }, answer));
    if (answer.status < 300) this.#counts.completed++;
    else this.#counts.failed++;
  }

  async #line(index: number): Promise<readonly [BatchRequest, number]> {
    if (!this.#lines || !this.#input) throw new TypeError("Expected the input to be open");
    const bytes = await readLine(this.#input, this.#lines.at(index));
    return [parseLine(bytes, this.record.endpoint), bytes.length];
  }

  async #end(act: Exclude<NextAct, "run">): Promise<void> {
    const { store, files, nowSeconds } = this.#services;
    const { id, client, outputSeconds: keptSeconds } = this.record;
    this.#finalizingAt = nowSeconds();
    this.#controller.abort();
    await Promise.all(this.#running);
    await this.#log?.sync();
    const total = this.#total ?? 0;
    const answers = await findAnswers(this.#answerPaths(this.owner), total);
    const { completed, failed } = answers.counts;
    const numExpired = act === "expire" ? total - completed - failed : 0;
    const write = async (name: OutputName, lines: AsyncIterable<Uint8Array>): Promise<string> => {
      const fileId = outputId(id, this.owner, name);
      await files.put(fileId, { client, purpose: "batch_output", filename: `${id}_${name}.jsonl`, keptSeconds }, lines);
      return fileId;
    };
    const outputFileId = completed > 0 ? await write("output", answerLines(answers, "o")) : undefined;
    const hasErrors = failed + numExpired > 0;
    const errorLines = this.#errorLines(answers, numExpired > 0);
    const errorFileId = hasErrors ? await write("error", errorLines) : undefined;
    const isFirst = await store.end(id, {
      status: ({ complete: "completed", expire: "expired", cancel: "cancelled" } as const)[act],
      at: nowSeconds(),
      total,
      completed,
      failed: failed + numExpired,
      finalizingAt: this.#finalizingAt,
      ...(this.#inProgressAt && { inProgressAt: this.#inProgressAt }),
      ...(outputFileId !== undefined && { outputFileId }),
      ...(errorFileId !== undefined && { errorFileId }),
    } satisfies BatchEnd);
    // Another owner may have been as far as this one: the files of one of them count.
    const unused = isFirst ? Array.from({ length: this.owner - 1 }, (_, index) => index + 1) : [this.owner];
    for (const owner of unused) for (const name of OUTPUT_NAMES) await files.remove(outputId(id, owner, name));
    this.#isOver = true;
    await this.#close();
    if (isFirst) await store.removeOwners(id);
    this.#services.wake();
  }

  async *#errorLines(answers: FoundAnswers, hasExpired: boolean): AsyncGenerator<Buffer, void> {
    yield* answerLines(answers, "e");
    if (!hasExpired) return;
    for (let index = 0; index < (this.#lines?.count ?? 0); index++) {
      if (answers.has(index)) continue;
      const [{ customId }] = await this.#line(index);
      yield Buffer.from(expiredLine({ batchId: this.record.id, index, customId }));
    }
  }

  #answerPaths(upTo: number): readonly string[] {
    return Array.from({ length: upTo }, (_, index) => this.#services.store.answersPath(this.record.id, index + 1));
  }

  async #fail(error: unknown): Promise<void> {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#failure = error;
    this.#controller.abort();
    this.#services.wake();
  }

  async #close(): Promise<void> {
    await Promise.allSettled([this.#input?.close(), this.#log?.close()]);
    [this.#input, this.#log] = [undefined, undefined];
  }
}

const OUTPUT_NAMES = ["output", "error"] as const;
type OutputName = (typeof OUTPUT_NAMES)[number];

/** Names a file that an owner makes of the answers. */
function outputId(batchId: string, owner: number, name: OutputName): string {
  return newFileId(createHash("sha256").update(`${batchId} ${owner} ${name}`).digest("hex").slice(0, 24));
}

/** Turns the error of an input file that does not exist into the result of its check. */
function missingFile(error: unknown): CheckedInput {
  if (!hasCode(error, "ENOENT")) throw error;
  const message = "The input file does not exist.";
  return { lines: new LinePlaces(), errors: [{ code: "file_not_found", message, line: null, param: "input_file_id" }] };
}
