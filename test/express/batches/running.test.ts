// Batches while processes die, time passes and answers are refused. Lines are answered by the tests.

import { rmSync, writeFileSync } from "node:fs";
import { mkdir, readdir, rename, rm, rmdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { ApiError, retryHeaders, sendError } from "../../../packages/express/src/http/errors.ts";
import type { BatchQueue } from "../../../packages/express/src/batches/options.ts";
import type { Reply } from "../../../packages/express/src/http/request.ts";
import { addBatch, answerJson, batchFile, endOf, startService, storedLines } from "../../support/batches.ts";
import { outcomeOf, startNode } from "../../support/node-process.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const FAST = { scanMs: 5, pauseMs: 2, failedMs: 10 };
const TEN = batchFile({ bodies: Array.from({ length: 10 }, (_, index) => ({ prompt: `${index}` })) });
const names = (count: number): readonly string[] => Array.from({ length: count }, (_, index) => `request-${index}`);
const never = (): void => undefined;

const refuse = (response: Reply, status: number, code: string): void =>
  sendError(response, new ApiError({ status, type: "x", code, message: code, headers: retryHeaders(1) }));

/** Line of a file of answers. */
const answerOf = (index: number): string =>
  `${index} o ${JSON.stringify({ id: "x", custom_id: `request-${index}`, response: { status_code: 200 }, error: null })}\n`;

test("what a killed process has answered stays, and the rest runs once", async () => {
  const folder = await temporaryFolder();
  const first = startService({ folder, answer: never, places: 0, times: { scanMs: 1e9 } });
  const id = await addBatch(first.batches, TEN);
  await first.drain();
  const { store } = first.batches;
  for (const run of await store.runsOf(id)) await rm(store.answersPath(id, run));
  // A process that was killed while it wrote its third answer.
  await store.note(id, { total: 10, completed: 2, failed: 0, inProgressAt: 7 });
  await writeFile(store.answersPath(id, 1), answerOf(4) + answerOf(1) + answerOf(8).slice(0, -9));
  const ran: string[] = [];
  const answer = (customId: string, response: Reply): void => {
    ran.push(customId);
    answerJson(response, { customId });
  };
  const second = startService({ folder, answer, times: FAST });
  const end = await endOf({ store }, id);
  expect(end).toMatchObject({ status: "completed", total: 10, completed: 10, failed: 0, inProgressAt: 7 });
  expect(ran.toSorted()).toEqual(names(10).filter((name) => !["request-1", "request-4"].includes(name)));
  const lines = await storedLines(second.batches, end.outputFileId);
  expect(lines.map((one) => one.custom_id)).toEqual(names(10));
});

test("a process whose batch another one has taken stops, and its answers are not lost", async () => {
  const folder = await temporaryFolder();
  let hold: (() => void) | undefined;
  const first = startService({
    folder,
    places: 1,
    times: FAST,
    answer: (customId, response) => {
      if (customId === "request-0") answerJson(response, { by: "first" });
      else hold = () => answerJson(response, { by: "first" });
    },
  });
  const id = await addBatch(first.batches, TEN);
  await expect.poll(() => hold, { interval: 2 }).toBeDefined();
  const second = startService({
    folder,
    times: FAST,
    answer: (_, response) => answerJson(response, { by: "second" }),
  });
  const end = await endOf(second.batches, id);
  hold?.();
  await first.drain();
  const bodies = (await storedLines(second.batches, end.outputFileId)).map(({ response }) => response?.body);
  expect(bodies).toEqual([{ by: "first" }, ...names(9).map(() => ({ by: "second" }))]);
  await expect.poll(async () => (await readdir(join(folder, "files"))).length).toBe(4);
  await expect
    .poll(() => readdir(second.batches.store.folderOf(id)))
    .toEqual(["batch.json", "end.json", "progress.json"]);
});

test("inputs are checked one at a time, and clients take turns", async () => {
  const folder = await temporaryFolder();
  const first = startService({ folder, answer: never, places: 0, times: { scanMs: 1e9 } });
  await first.drain();
  const clients = ["a", "a", "a", "a", "a", "b", "b", "c"].map((name) => `key:${name}`);
  for (const client of clients) await addBatch(first.batches, TEN, { client });
  const second = startService({ folder, answer: never, places: 0, times: FAST });
  const { store } = second.batches;
  const order: string[] = [];
  const note = store.note.bind(store);
  const clientOf = new Map((await store.list()).map(({ record }) => [record.id, record.client.replace("key:", "")]));
  store.note = async (id, progress) => {
    order.push(clientOf.get(id) ?? "");
    await note(id, progress);
  };
  await expect.poll(() => order.length, { interval: 2 }).toBe(7);
  // A client's fifth batch waits until one of its others has ended.
  expect(order.slice(0, 3).toSorted()).toEqual(["a", "b", "c"]);
  expect(order.slice(3).toSorted()).toEqual(["a", "a", "a", "b"]);
});

test("a drained server hands its batches on at once", async () => {
  const folder = await temporaryFolder();
  let [begun, aborted] = [0, 0];
  const first = startService({
    folder,
    times: FAST,
    answer: (_, response) => {
      begun++;
      response.once("close", () => aborted++);
    },
  });
  const id = await addBatch(first.batches, TEN);
  first.batches.look();
  await expect.poll(async () => (await first.batches.store.read(id))?.progress?.total, { interval: 2 }).toBe(10);
  await expect.poll(() => begun, { interval: 2 }).toBeGreaterThan(0);
  await first.drain();
  const second = startService({
    folder,
    times: FAST,
    answer: (_, response) => answerJson(response, {}),
  });
  expect(await endOf(second.batches, id)).toMatchObject({ status: "completed", completed: 10 });
  expect(aborted).toBeGreaterThan(0);
});

test("after its time, a batch has the answers so far, and errors for the rest", async () => {
  let now = 1000;
  const service = startService({
    folder: await temporaryFolder(),
    places: 3,
    times: FAST,
    nowSeconds: () => now,
    answer: (customId, response) => {
      if (["request-0", "request-1"].includes(customId)) answerJson(response, { customId });
      else now = 2000;
    },
  });
  const id = await addBatch(service.batches, TEN, { expiresAt: 2000 });
  service.batches.look();
  const end = await endOf(service.batches, id);
  expect(end).toMatchObject({ status: "expired", at: 2000, total: 10, completed: 2, failed: 8 });
  const errors = await storedLines(service.batches, end.errorFileId);
  expect(errors.map((line) => [line.custom_id, line.response, line.error?.code])).toEqual(
    names(10)
      .slice(2)
      .map((name) => [name, null, "batch_expired"]),
  );
  expect((await storedLines(service.batches, end.outputFileId)).map((line) => line.custom_id)).toEqual(names(2));
});

test("refusals of a busy server are tried again; failures of the engine three times", async () => {
  const attempts = new Map<string, number>();
  const service = startService({
    folder: await temporaryFolder(),
    times: FAST,
    answer: (customId, response) => {
      const count = (attempts.get(customId) ?? 0) + 1;
      attempts.set(customId, count);
      if (customId === "request-3") refuse(response, 503, "engine_failed");
      else if (customId === "request-5") refuse(response, 500, "other");
      else if (count < 5)
        refuse(response, count % 2 ? 503 : 429, count % 2 ? "server_overloaded" : "rate_limit_exceeded");
      else answerJson(response, {});
    },
  });
  const id = await addBatch(service.batches, TEN);
  service.batches.look();
  const end = await endOf(service.batches, id);
  expect(end).toMatchObject({ status: "completed", completed: 8, failed: 2 });
  expect(names(10).map((name) => attempts.get(name))).toEqual([5, 5, 5, 3, 5, 1, 5, 5, 5, 5]);
  const errors = await storedLines(service.batches, end.errorFileId);
  expect(errors.map((line) => line.custom_id)).toEqual(["request-3", "request-5"]);
});

test("refusals of a busy server are no failures of the engine", async () => {
  const codes = ["server_overloaded", "rate_limit_exceeded", "queue_timeout", "engine_failed", "engine_failed"];
  const service = startService({
    folder: await temporaryFolder(),
    times: FAST,
    answer: (_, response) => {
      const code = codes.shift();
      if (code === undefined) answerJson(response, {});
      else refuse(response, 503, code);
    },
  });
  const id = await addBatch(service.batches, batchFile({ bodies: [{ prompt: "x" }] }));
  service.batches.look();
  expect(await endOf(service.batches, id)).toMatchObject({ status: "completed", completed: 1, failed: 0 });
});

test("twelve batches of 20,000 lines with long ids are checked with 64 MB", async () => {
  const program = join(import.meta.dirname, "..", "..", "support", "programs", "check-batches.ts");
  const memory = { NODE_OPTIONS: "--max-old-space-size=64" };
  const { code, stdout, stderr } = await outcomeOf(
    startNode([program, await temporaryFolder(), "20000"], { env: memory }),
  );
  expect({ code, stdout, stderr }).toEqual({
    code: 0,
    stdout: `${JSON.stringify(Array(12).fill(20_000))}\n`,
    stderr: "",
  });
});

test("clients take turns, and none has more requests under way than there is room for", async () => {
  const order: string[] = [];
  let [running, most] = [0, 0];
  const ids: string[] = [];
  const hasBegun = async (): Promise<boolean> => {
    const facts = await Promise.all(ids.map((id) => service.batches.store.read(id)));
    return facts.length === 2 && facts.every((one) => (one?.end ?? one?.progress?.total) !== undefined);
  };
  const service = startService({
    folder: await temporaryFolder(),
    places: 2,
    times: FAST,
    answer: async (customId, response, { ip }) => {
      order.push(`${ip} ${customId}`);
      most = Math.max(most, ++running);
      // Turns begin when both have been checked.
      await expect.poll(hasBegun, { interval: 1 }).toBe(true);
      running--;
      answerJson(response, {});
    },
  });
  const one = await addBatch(service.batches, TEN, { client: "address:10.0.0.1" });
  const two = await addBatch(service.batches, TEN, { client: "address:10.0.0.2" });
  ids.push(one, two);
  service.batches.look();
  await Promise.all([endOf(service.batches, one), endOf(service.batches, two)]);
  expect(most).toBeLessThanOrEqual(2);
  const [first = [], second = []] = ["10.0.0.1", "10.0.0.2"].map((client) =>
    order.flatMap((line, index) => (line.startsWith(client) ? [index] : [])),
  );
  expect(Math.max(first[0] ?? 99, second[0] ?? 99)).toBeLessThan(10);
});

test("a batch that could not be added to the queue is added again", async () => {
  const errors: string[] = [];
  let [run, numAdded] = [(_id: string, _signal: AbortSignal) => Promise.resolve(true), 0];
  const queue: BatchQueue = {
    start: (_name, _most, given) => void (run = given),
    add: async (id) => {
      if (++numAdded === 1) throw new Error("gone");
      void run(id, new AbortController().signal);
    },
    close: async () => undefined,
  };
  const service = startService({
    folder: await temporaryFolder(),
    options: { queue, onError: ({ message }) => void errors.push(message) },
    times: FAST,
    answer: (_, response) => answerJson(response, {}),
  });
  const id = await addBatch(service.batches, TEN);
  expect(await endOf(service.batches, id)).toMatchObject({ status: "completed", completed: 10 });
  expect(errors).toStrictEqual(["gone"]);
});

test("a failure of the disk is reported, and the batch goes on later", async () => {
  const errors: string[] = [];
  const service = startService({
    folder: await temporaryFolder(),
    options: { onError: ({ message }) => void errors.push(message) },
    times: FAST,
    answer: (_, response) => answerJson(response, {}),
  });
  const id = await addBatch(service.batches, TEN, { begins: false });
  const { store, files } = service.batches;
  const { record } = (await store.read(id))!;
  const input = files.contentPath(record.inputFileId);
  await rename(input, `${input}.aside`);
  await mkdir(input);
  service.batches.begin(record);
  await expect.poll(() => errors.length, { interval: 2 }).toBeGreaterThan(1);
  expect(errors[0]).toMatch(/EISDIR/);
  await rmdir(input);
  await rename(`${input}.aside`, input);
  expect(await endOf(service.batches, id)).toMatchObject({ status: "completed", completed: 10 });
});

test("a batch that another process ends while this one opens it is left without a word", async () => {
  const errors: string[] = [];
  const service = startService({
    folder: await temporaryFolder(),
    options: { onError: ({ message }) => void errors.push(message) },
    times: FAST,
    answer: never,
  });
  const { store, files } = service.batches;
  const end = { status: "completed", at: 1, total: 10, completed: 10, failed: 0 };
  const pathOf = files.contentPath.bind(files);
  let ended = "";
  files.contentPath = (fileId) => {
    const path = pathOf(fileId);
    if (ended === "" && id !== "") {
      ended = id;
      writeFileSync(join(store.folderOf(id), "end.json"), JSON.stringify(end));
      rmSync(path);
    }
    return path;
  };
  let id = "";
  id = await addBatch(service.batches, TEN);
  await expect.poll(() => ended, { interval: 2 }).toBe(id);
  await service.drain();
  expect([errors, (await store.read(id))?.end]).toStrictEqual([[], end]);
});

test("a batch without its input fails, and a damaged one does not hold up the others", async () => {
  const service = startService({
    folder: await temporaryFolder(),
    times: FAST,
    answer: (_, response) => answerJson(response, {}),
  });
  const { store, files } = service.batches;
  const damaged = await addBatch(service.batches, TEN, { begins: false });
  const { record: unread } = (await store.read(damaged))!;
  await writeFile(join(store.folderOf(damaged), "batch.json"), "{");
  service.batches.begin(unread);
  const id = await addBatch(service.batches, TEN, { begins: false });
  const { record } = (await store.read(id))!;
  await files.remove(record.inputFileId);
  service.batches.begin(record);
  const end = await endOf(service.batches, id);
  expect([end.status, end.errors?.[0]?.code]).toEqual(["failed", "file_not_found"]);
  expect(await store.read(damaged)).toBeUndefined();
});
