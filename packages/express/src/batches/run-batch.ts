// A batch that this process runs: its input is checked, its lines run as HTTP requests without a connection, their
// answers are kept, and it ends.

import { createHash, randomUUID } from "node:crypto";
import { type FileHandle, open } from "node:fs/promises";
import { onceAborted } from "@readme-moe/core";
import { unsupported } from "../http/errors.ts";
import type { Handler, Step } from "../http/request.ts";
import { asStep, runSteps } from "../http/routes.ts";
import { WebReply, WebRequest } from "../http/web.ts";
import { type FileStore, hasCode, newFileId } from "./files.ts";
import {
  answerLine,
  answerLines,
  AnswerLog,
  type BatchRequest,
  type CheckedInput,
  checkInput,
  countsOf,
  expiredLine,
  findAnswers,
  type FoundAnswers,
  type LineAnswer,
  LinePlaces,
  parseLine,
  readLine,
} from "./lines.ts";
import { type BatchEnd, type BatchFacts, type BatchRecord, type BatchStore, nextAct, type NextAct } from "./store.ts";

/** Services and limits that all batches share. */
export interface BatchServices {
  readonly store: BatchStore;
  readonly files: FileStore;
  readonly runner: LineRunner;
  readonly maxLineBytes: number;
  readonly maxRequests: number;
  readonly nowSeconds: () => number;
  /** Called when something has happened that may let more lines begin. */
  readonly wake: () => void;
}

export class RunningBatch {
  readonly record: BatchRecord;
  /** Resolves when the input is checked and the first line may begin, or the batch is over. */
  readonly opened: Promise<void>;
  /** Whether the client has cancelled the batch. */
  isCancelled = false;
  readonly #services: BatchServices;
  readonly #controller = new AbortController();
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
  #run: number | undefined;
  #noted = "";
  #isOver = false;
  #failure: unknown;

  constructor(services: BatchServices, { record, progress, cancellingAt }: BatchFacts) {
    this.#services = services;
    this.record = record;
    this.isCancelled = cancellingAt !== undefined;
    this.#inProgressAt = progress?.inProgressAt;
    this.opened = this.#open().catch((error: unknown) => this.#fail(error));
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
    const running = this.#runLine(index)
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

  /** Notes how far the batch is, and whether the client has cancelled it. @returns false if another process runs it */
  async check(): Promise<boolean> {
    const { store } = this.#services;
    const { id } = this.record;
    if (!this.#lines) return true;
    const [facts, runs] = await Promise.all([store.read(id), store.runsOf(id)]);
    if (this.#isOver || this.#ending) return true;
    if (!facts || facts.end || runs.at(-1) !== this.#run) return false;
    this.isCancelled = facts.cancellingAt !== undefined;
    await this.#note();
    return true;
  }

  /** Stops without an end. */
  async abandon(): Promise<void> {
    this.#isOver = true;
    this.#controller.abort();
    await this.opened;
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
    const { files, store, maxLineBytes, maxRequests, nowSeconds, wake } = this.#services;
    const { id, inputFileId, endpoint } = this.record;
    const path = files.contentPath(inputFileId);
    const limits = { endpoint, maxLineBytes, maxRequests };
    const { lines, errors } = await checkInput(path, limits, this.#controller.signal).catch(missingFile);
    if (errors.length > 0) {
      const end = { total: 0, completed: 0, failed: 0, errors: [...errors] };
      await store.end(id, { status: "failed", at: nowSeconds(), ...end });
      this.#isOver = true;
      return wake();
    }
    this.#input = await open(path);
    this.#run = ((await store.runsOf(id)).at(-1) ?? 0) + 1;
    this.#log = await AnswerLog.create(store.answersPath(id, this.#run));
    const answered = await this.#answers(lines.count);
    this.#counts = { ...countsOf(answered) };
    this.#taken = Uint8Array.from({ length: lines.count }, (_, index) => (answered.has(index) ? 1 : 0));
    this.#total = lines.count;
    this.#inProgressAt ??= nowSeconds();
    await this.#note();
    this.#lines = lines;
    wake();
  }

  async #runLine(index: number): Promise<void> {
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
    await this.#note();
    const total = this.#total ?? 0;
    const answers = await this.#answers(total);
    const { completed, failed } = countsOf(answers);
    const numExpired = act === "expire" ? total - completed - failed : 0;
    const write = async (name: OutputName, lines: AsyncIterable<Uint8Array>): Promise<string> => {
      const fileId = this.#outputId(name);
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
    // Another run may have come as far as this one: the files of one of them count.
    if (!isFirst) for (const name of OUTPUT_NAMES) await files.remove(this.#outputId(name));
    this.#isOver = true;
    await this.#close();
    if (isFirst) await store.removeAnswers(id);
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

  async #answers(total: number): Promise<FoundAnswers> {
    const { store } = this.#services;
    const { id } = this.record;
    return findAnswers(
      (await store.runsOf(id)).map((run) => store.answersPath(id, run)),
      total,
    );
  }

  /** Notes how far the batch is, if that has changed. */
  async #note(): Promise<void> {
    const [total, inProgressAt, finalizingAt] = [this.#total, this.#inProgressAt, this.#finalizingAt];
    const latest = { ...this.#counts, total, inProgressAt, finalizingAt };
    const text = JSON.stringify(latest);
    if (text === this.#noted) return;
    await this.#services.store.note(this.record.id, latest);
    this.#noted = text;
  }

  /** Names a file that this run makes of the answers. */
  #outputId(name: OutputName): string {
    const seed = `${this.record.id} ${this.#run} ${name}`;
    return newFileId(createHash("sha256").update(seed).digest("hex").slice(0, 24));
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

/** Turns the error of an input file that does not exist into the result of its check. */
function missingFile(error: unknown): CheckedInput {
  if (!hasCode(error, "ENOENT")) throw error;
  const message = "The input file does not exist.";
  return { lines: new LinePlaces(), errors: [{ code: "file_not_found", message, line: null, param: "input_file_id" }] };
}

interface LineStates {
  readonly total: number;
  /** 1 for each line that is answered, under way, or was refused. */
  readonly taken: Uint8Array;
  /** Indices of lines that were refused and run again, in the order of their refusals. */
  readonly refused: ReadonlySet<number>;
  /** Lines before this index are taken. */
  readonly from: number;
}

/**
 * Selects the line that is next: the first one that was not tried, else the one that was refused first. A line that is
 * always refused thereby holds up no other.
 */
export function nextLine({ total, taken, refused, from }: LineStates): number | undefined {
  for (let index = from; index < total; index++) if (taken[index] === 0) return index;
  const [first] = refused;
  return first;
}

interface LineReply {
  readonly status: number;
  /** Code of its error. */
  readonly code: string | undefined;
  /** Wait that its headers ask for, in ms. */
  readonly retryAfterMs: number | undefined;
  /** Earlier failures of the engine at this line. */
  readonly failures: number;
}

/** Refusals that say nothing about the request: the server is full, is starting, or is ending. */
const PASSING = new Set([
  "server_overloaded",
  "rate_limit_exceeded",
  "rate_limiter_unavailable",
  "queue_timeout",
  "model_loading",
  "model_failed",
  "fleet_unreachable",
  "no_worker",
  "engine_drained",
  "shutting_down",
]);

/** Failures that the request itself may have caused, so that they do not repeat for ever. */
const DOUBTFUL = new Set(["engine_failed", "grammar_failed"]);

/** Tells whether the line itself may have caused a failure. @param code - that of the answer's error */
function isDoubtful(code: string | undefined): boolean {
  return code !== undefined && DOUBTFUL.has(code);
}

const [MAX_DOUBTFUL, DEFAULT_WAIT_MS, MAX_WAIT_MS] = [3, 1000, 60_000] as const;

/** Decides whether a line runs again. @returns the wait in ms, or `undefined` where the answer counts */
export function retryAfter({ status, code, retryAfterMs, failures }: LineReply): number | undefined {
  const isPassing = status >= 400 && code !== undefined && PASSING.has(code);
  if (!isPassing && !(isDoubtful(code) && failures + 1 < MAX_DOUBTFUL)) return undefined;
  return Math.min(MAX_WAIT_MS, Math.max(1, retryAfterMs ?? DEFAULT_WAIT_MS));
}

/** Priority of all requests of batches, below that of any client who does not ask for less. */
const BATCH_PRIORITY = -10_000;

interface RunningLine {
  readonly record: BatchRecord;
  readonly line: BatchRequest;
  readonly bytes: number;
  readonly signal: AbortSignal;
}

export type LineHandlers = Readonly<Record<BatchRecord["endpoint"], Handler>>;

/** Handlers of lines, and the steps before them. */
export interface LineRunner {
  readonly front: readonly Step[];
  readonly handlers: LineHandlers;
  /** Whether hooks of the host get requests of the web. */
  readonly isWeb: boolean;
}

/**
 * Runs a line. A line that asks for a stream is refused.
 *
 * @returns the answer; any answer soon after `signal` aborts
 */
async function runLine(
  { front, handlers, isWeb }: LineRunner,
  { record, line, bytes, signal }: RunningLine,
): Promise<LineAnswer> {
  const { endpoint, client, key, id } = record;
  const requestId = randomUUID();
  if (line.body["stream"] === true) {
    const refusal = unsupported("stream", "A request of a batch cannot be streamed");
    return { requestId, status: refusal.status, retryAfterMs: undefined, text: JSON.stringify(refusal) };
  }
  // A request stays among the listeners of its signal until it is collected, so each has one of its own.
  const controller = new AbortController();
  const detach = onceAborted(signal, () => controller.abort());
  const web = new Request(`http://localhost${endpoint}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    signal: controller.signal,
  });
  const address = client.replace(/^address:/, "");
  const request = new WebRequest(web, { baseUrl: "", address, isWeb });
  const reply = new WebReply(request);
  request.body = bodyOf(endpoint, line);
  request.route = { path: endpoint };
  reply.locals.readMe = {
    key,
    requestId,
    arrivalMs: performance.now(),
    bodyBytes: bytes,
    batch: { id, customId: line.customId, priority: BATCH_PRIORITY },
  };
  runSteps([...front, asStep(handlers[endpoint])], request, reply);
  try {
    const response = await reply.response;
    const text = await response.text().catch(() => "");
    const wait = Number(response.headers.get("retry-after-ms") ?? NaN);
    return { requestId, status: response.status, retryAfterMs: wait >= 0 ? wait : undefined, text };
  } finally {
    detach();
  }
}

/** Returns the body that runs. Responses of batches are not kept unless that is asked for. */
function bodyOf(endpoint: BatchRecord["endpoint"], { body }: BatchRequest): object {
  return endpoint === "/v1/responses" ? { store: false, ...body } : { ...body };
}

function errorCode(text: string): string | undefined {
  try {
    const { error } = JSON.parse(text) as { readonly error?: { readonly code?: unknown } };
    return typeof error?.code === "string" ? error.code : undefined;
  } catch {
    return undefined;
  }
}
