// Batches of two clients and two processes beside a plain list of them: who runs which line, and what comes back.

import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { expect, test } from "vitest";
import type { Reply } from "../../../packages/express/src/http/types.ts";
import { ApiError, retryHeaders, sendError } from "../../../packages/express/src/http/errors.ts";
import { addBatch, answerJson, batchFile, startService, storedLines } from "../../support/batches.ts";
import { randomInteger, seededRandom } from "../../support/random.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

/** Processes look at the folder when the test says so, and wait for nothing else. */
const TIMES = { scanMs: 1e9, leaseMs: 1e9, pauseMs: 1, failedMs: 0 };
const CLIENTS = ["key:ann", "address:10.0.0.1"] as const;

interface PlainBatch {
  readonly id: string;
  readonly client: string;
  readonly numLines: number;
  readonly expiresAt: number;
  readonly hasInput: boolean;
  /** Process that runs it. */
  process?: number;
  /** Owners so far. */
  numOwners: number;
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
  const start = (process: number) =>
    startService({
      folder,
      places: 64,
      times: TIMES,
      nowSeconds: () => nowSeconds,
      options: { onError: ({ message }) => void errors.push(message) },
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
  const take = (process: number): void => {
    for (const batch of batches) {
      if (batch.end || (batch.process ?? process) !== process) continue;
      const isNew = batch.process === undefined;
      if (isNew) Object.assign(batch, { process, numOwners: batch.numOwners + 1 });
      if (isNew || batch.isCancelled) goOn(batch, nowSeconds, new Set());
    }
  };
  const look = async () => ({
    running: Array.from(lines, nameOf),
    batches: (await store.list()).map(({ record: { id, client }, owner, cancellingAt, end }) => ({
      id,
      client,
      isCancelled: cancellingAt !== undefined,
      end: end && { status: end.status, total: end.total, completed: end.completed, failed: end.failed },
      ...(!end && { numOwners: owner }),
    })),
  });
  /** Waits until all that can be seen is as expected; the test's time limit is the patience. */
  const settle = async (): Promise<void> => {
    const expected = {
      running: batches.flatMap(({ id, process = -1, attempts, answers, end }) =>
        end || process < 0
          ? []
          : attempts.flatMap((attempt, index) => (answers.has(index) ? [] : [nameOf({ process, id, index, attempt })])),
      ),
      batches: batches.map(({ id, client, numOwners, isCancelled, end }) => ({
        id,
        client,
        isCancelled,
        end,
        ...(!end && { numOwners }),
      })),
    };
    let seen = order(await look());
    for (let turn = 0; turn < 3000 && !isDeepStrictEqual(seen, order(expected)); turn++) {
      await new Promise((resolve) => setImmediate(resolve));
      seen = order(await look());
    }
    expect(seen).toStrictEqual(order(expected));
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
      const id = await addBatch(
        services[process]!.batches,
        batchFile({ bodies: Array.from({ length: numLines }, () => ({ prompt: "x" })) }),
        { client, expiresAt },
      );
      const hasInput = random() < 0.95;
      if (!hasInput) await files.remove((await store.read(id))?.record.inputFileId ?? "");
      batches.push({
        id,
        client,
        numLines,
        expiresAt,
        hasInput,
        numOwners: 0,
        isCancelled: false,
        attempts: [],
        answers: new Map(),
      });
      if (random() < 0.5) {
        services[process]?.batches.look();
        take(process);
      }
    } else if (action < 0.16) {
      services[process]?.batches.look();
      take(process);
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
      if (batch.process !== undefined) {
        services[batch.process]?.batches.look();
        take(batch.process);
      }
    } else if (action < 0.78) {
      nowSeconds += 3;
      for (const batch of open)
        if (batch.process !== undefined) goOn(batch, nowSeconds, new Set(batch.attempts.keys()));
    } else if (action < 0.88 && open.length > 0) {
      // Another process takes a batch, and gives it up.
      const batch = pick(open);
      await store.claim(batch.id, batch.numOwners);
      await store.beat(batch.id, batch.numOwners + 1, { beat: 1, isReleased: true, completed: 0, failed: 0 });
      batch.numOwners++;
      const looking = batch.process ?? process;
      delete batch.process;
      services[looking]?.batches.look();
      take(looking);
    } else if (action >= 0.88) {
      await services[process]?.drain();
      for (const batch of open) if (batch.process === process) delete batch.process;
      services[process] = start(process);
      take(process);
    }
    await settle();
  }
  for (const service of services) service.batches.look();
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
    // The owners' files are removed after the end.
    await expect
      .poll(async () => (await readdir(store.folderOf(batch.id))).filter((name) => name.startsWith("owner")))
      .toStrictEqual([]);
  }
  await Promise.all(services.map((service) => service.drain()));
  expect([errors, await readdir(join(folder, "tmp"))]).toStrictEqual([[], []]);
});
