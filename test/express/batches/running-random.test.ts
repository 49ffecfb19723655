// Batches of two clients and two processes that share a queue, beside a plain list of them: who runs which line, and what
// comes back.

import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { expect, test } from "vitest";
import type { BatchQueue } from "../../../packages/express/src/batches/options.ts";
import { ApiError, retryHeaders, sendError } from "../../../packages/express/src/http/errors.ts";
import type { Reply } from "../../../packages/express/src/http/request.ts";
import { addBatch, answerJson, batchFile, startService, storedLines } from "../../support/batches.ts";
import { randomInteger, seededRandom } from "../../support/random.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

/** Processes look at the folder when the test says so, and wait for nothing else. */
const TIMES = { scanMs: 1e9, pauseMs: 1, failedMs: 0 };
const CLIENTS = ["key:ann", "address:10.0.0.1"] as const;

interface PlainBatch {
  readonly id: string;
  readonly client: string;
  readonly numLines: number;
  readonly expiresAt: number;
  readonly hasInput: boolean;
  /** Process that runs it. */
  process: number;
  isCancelled: boolean;
  /** Attempts of each line, and the answers that count, by the line's index. */
  readonly attempts: number[];
  readonly answers: Map<number, { readonly kind: "o" | "e"; readonly attempt: number }>;
  end?: { readonly status: string; readonly total: number; readonly completed: number; readonly failed: number };
}

/** A line that a process has begun and not answered. */
interface RunningLine {
  readonly process: number;
  readonly id: string;
  readonly index: number;
  readonly attempt: number;
  readonly response: Reply;
}

const nameOf = ({ process, id, index, attempt }: Omit<RunningLine, "response">): string =>
  `process ${process} runs line ${index} of ${id} for the ${attempt}. time`;

function countsOf({ answers }: PlainBatch): { readonly completed: number; readonly failed: number } {
  const completed = [...answers.values()].filter(({ kind }) => kind === "o").length;
  return { completed, failed: answers.size - completed };
}

/** Ends a batch whose time has come, else begins the lines that do not run. */
function goOn(batch: PlainBatch, nowSeconds: number, running: ReadonlySet<number>): void {
  const { completed, failed } = countsOf(batch);
  const total = batch.numLines;
  const unanswered = total - completed - failed;
  if (!batch.hasInput) batch.end = { status: "failed", total: 0, completed: 0, failed: 0 };
  else if (batch.isCancelled) batch.end = { status: "cancelled", total, completed, failed };
  else if (unanswered === 0) batch.end = { status: "completed", total, completed, failed };
  else if (nowSeconds >= batch.expiresAt)
    batch.end = { status: "expired", total, completed, failed: failed + unanswered };
  if (batch.end) return;
  for (let index = 0; index < total; index++) {
    if (!batch.answers.has(index) && !running.has(index)) batch.attempts[index] = (batch.attempts[index] ?? 0) + 1;
  }
}

/** A queue in memory, which gives each batch to one of two processes. */
class PlainQueue {
  readonly #owners = new Map<string, { readonly process: number; readonly controller: AbortController }>();
  readonly #runs = new Map<number, Parameters<BatchQueue["start"]>[2]>();
  readonly #choose: () => number;
  readonly #names = new Set<string>();

  constructor(choose: () => number) {
    this.#choose = choose;
  }

  /** Names of the folder that processes have given. */
  get names(): ReadonlySet<string> {
    return this.#names;
  }

  ownerOf(id: string): number {
    return this.#owners.get(id)?.process ?? -1;
  }

  /** Returns the queue as one process has it. */
  of(process: number): BatchQueue {
    const own: string[] = [];
    return {
      start: (name, _most, run) => {
        this.#names.add(name);
        this.#runs.set(process, run);
        for (const [id, { process: owner }] of this.#owners) if (owner < 0) this.give(id);
      },
      add: async (id) => {
        if (!this.#owners.has(id)) this.give(id);
        own.push(id);
      },
      close: async () => {
        this.#runs.delete(process);
      },
    };
  }

  /** Gives a batch to a process, and takes it from the one that has it. */
  give(id: string): void {
    this.#owners.get(id)?.controller.abort();
    const running = [...this.#runs.keys()];
    const process = running[this.#choose() % Math.max(1, running.length)] ?? -1;
    const owner = { process, controller: new AbortController() };
    this.#owners.set(id, owner);
    void this.#run(id, owner);
  }

  async #run(id: string, owner: { readonly process: number; readonly controller: AbortController }): Promise<void> {
    const isEnded = await this.#runs.get(owner.process)?.(id, owner.controller.signal);
    if (isEnded === false && this.#owners.get(id) === owner) this.give(id);
  }
}

interface Seen {
  readonly running: readonly string[];
  readonly batches: readonly { readonly id: string }[];
}

const order = ({ running, batches }: Seen): Seen => ({
  running: running.toSorted(),
  batches: batches.toSorted((a, b) => (a.id < b.id ? -1 : 1)),
});

test.each([1, 2])("two processes run the batches of a plain list, whatever ends first (seed %i)", async (seed) => {
  const random = seededRandom(seed);
  const pick = <Item>(items: readonly Item[]): Item => items[randomInteger(random, items.length)] as Item;
  const folder = await temporaryFolder();
  let nowSeconds = 1000;
  const lines = new Set<RunningLine>();
  const errors: string[] = [];
  const numBegun = new Map<string, number>();
  const queue = new PlainQueue(() => randomInteger(random, 2));
  const start = (process: number) =>
    startService({
      folder,
      places: 64,
      times: TIMES,
      nowSeconds: () => nowSeconds,
      options: { queue: queue.of(process), onError: ({ message }) => void errors.push(message) },
      answer: (customId, response) => {
        const { id } = response.locals.readMe?.batch ?? { id: "" };
        const index = Number(customId.replace("request-", ""));
        const attempt = (numBegun.get(`${id} ${index}`) ?? 0) + 1;
        numBegun.set(`${id} ${index}`, attempt);
        const line = { process, id, index, attempt, response };
        lines.add(line);
        response.once("close", () => lines.delete(line));
      },
    });
  const services = [start(0), start(1)];
  const batches: PlainBatch[] = [];
  const { store, files } = (services[0] as (typeof services)[number]).batches;
  /** Follows the batches to the processes that the queue has given them to. */
  const follow = (): void => {
    for (const batch of batches) {
      const process = queue.ownerOf(batch.id);
      if (batch.end || process === batch.process) continue;
      batch.process = process;
      if (process >= 0) goOn(batch, nowSeconds, new Set());
    }
  };
  const look = async () => ({
    running: Array.from(lines, nameOf),
    batches: (await store.list()).map(({ record: { id, client }, cancellingAt, end }) => ({
      id,
      client,
      isCancelled: cancellingAt !== undefined,
      end: end && { status: end.status, total: end.total, completed: end.completed, failed: end.failed },
    })),
  });
  /** Waits until all that can be seen is as expected; the test's time limit is the patience. */
  const settle = async (): Promise<void> => {
    const expected = (): Seen => {
      follow();
      return order({
        running: batches.flatMap(({ id, process, attempts, answers, end }) =>
          end || process < 0
            ? []
            : attempts.flatMap((attempt, index) =>
                answers.has(index) ? [] : [nameOf({ process, id, index, attempt })],
              ),
        ),
        batches: batches.map(({ id, client, isCancelled, end }) => ({
          id,
          client,
          isCancelled,
          end,
        })),
      });
    };
    let seen = order(await look());
    for (let turn = 0; turn < 3000 && !isDeepStrictEqual(seen, expected()); turn++) {
      await new Promise((resolve) => setImmediate(resolve));
      seen = order(await look());
    }
    expect(seen).toStrictEqual(expected());
    expect(errors).toStrictEqual([]);
  };
  for (let step = 0; step < 50; step++) {
    const [process, action] = [randomInteger(random, 2), random()];
    const open = batches.filter(({ end }) => !end);
    const line = pick([...lines].toSorted((a, b) => (nameOf(a) < nameOf(b) ? -1 : 1)));
    if (open.length < 3 || action < 0.05) {
      const client = pick(CLIENTS);
      // A process runs four batches of a client at most.
      if (open.filter((one) => one.client === client).length === 4) continue;
      const numLines = 2 + randomInteger(random, 4);
      const expiresAt = nowSeconds + pick([8, 1000]);
      const text = batchFile({ bodies: Array.from({ length: numLines }, () => ({ prompt: "x" })) });
      const hasInput = random() < 0.95;
      const { batches: own } = services[process]!;
      const id = await addBatch(own, text, { client, expiresAt, begins: false });
      const { record } = (await store.read(id))!;
      if (!hasInput) await files.remove(record.inputFileId);
      own.begin(record);
      const plain = { id, client, numLines, expiresAt, hasInput, process: -1, isCancelled: false, attempts: [] };
      batches.push({ ...plain, answers: new Map() });
      follow();
    } else if (action < 0.66 && line) {
      const { id, index, attempt, response } = line;
      const batch = batches.find((one) => one.id === id);
      if (!batch) throw new Error("Expected a known batch");
      const kind = pick(["o", "o", "e", "e", "busy"] as const);
      const refused = { type: "x", message: "No", headers: retryHeaders(1) };
      if (kind === "o") answerJson(response, { attempt });
      else
        sendError(
          response,
          new ApiError({
            ...refused,
            status: kind === "e" ? 400 : 429,
            code: kind === "e" ? "bad" : "rate_limit_exceeded",
          }),
        );
      if (kind !== "busy") batch.answers.set(index, { kind, attempt });
      const others = [...batch.attempts.keys()].filter((one) => one !== index);
      goOn(batch, nowSeconds, new Set(others));
    } else if (action < 0.7 && open.length > 0) {
      const batch = pick(open);
      await store.cancel(batch.id);
      batch.isCancelled = true;
      // The process that runs it notices when it looks.
      services[batch.process]?.batches.look();
      goOn(batch, nowSeconds, new Set(batch.attempts.keys()));
    } else if (action < 0.78) {
      nowSeconds += 3;
      for (const batch of open) goOn(batch, nowSeconds, new Set(batch.attempts.keys()));
    } else if (action < 0.88 && open.length > 0) {
      // The queue takes a process for dead.
      const batch = pick(open);
      queue.give(batch.id);
      batch.process = -1;
      for (const service of services) service.batches.look();
      follow();
    } else if (action >= 0.88) {
      await services[process]?.drain();
      services[process] = start(process);
      follow();
    }
    await settle();
  }
  expect(queue.names.size).toBe(1);
  for (const batch of batches) {
    const end = (await store.read(batch.id))?.end;
    if (!end) continue;
    const of = (wanted: "o" | "e"): readonly (readonly [string, number])[] =>
      [...batch.answers]
        .toSorted(([one], [other]) => one - other)
        .flatMap(([index, { kind, attempt }]) => (kind === wanted ? [[`request-${index}`, attempt] as const] : []));
    const output = await storedLines(services[0]!.batches, end.outputFileId);
    expect(output.map(({ custom_id: name, response }) => [name, response?.body])).toStrictEqual(
      of("o").map(([name, attempt]) => [name, { attempt }]),
    );
    const errorLines = await storedLines(services[0]!.batches, end.errorFileId);
    const unanswered = Array.from({ length: batch.numLines }, (_, index) => index).filter(
      (index) => !batch.answers.has(index),
    );
    expect(errorLines.map(({ custom_id: name }) => name)).toStrictEqual([
      ...of("e").map(([name]) => name),
      ...(end.status === "expired" ? unanswered.map((index) => `request-${index}`) : []),
    ]);
    // The answers of all runs are removed after the end.
    await expect.poll(() => store.runsOf(batch.id)).toStrictEqual([]);
  }
  await Promise.all(services.map((service) => service.drain()));
  expect(errors).toStrictEqual([]);
  for (const part of ["", "files", ...batches.map(({ id }) => join("batches", id))]) {
    expect((await readdir(join(folder, part))).filter((name) => name.endsWith(".tmp"))).toStrictEqual([]);
  }
});
