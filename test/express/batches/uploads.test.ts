// Damaged forms, cancelled uploads and full stores leave nothing behind.

import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { fetchHandler, LIMITS, readMe, type BatchesOptions, type FetchHandler } from "@readme-moe/express";
import express from "express";
import { afterAll, expect, onTestFinished, test } from "vitest";
import { missingRoom } from "../../../packages/express/src/batches/options.ts";
import { ClientLoads } from "../../../packages/express/src/edge/admission/limits.ts";
import { receiveUpload } from "../../../packages/express/src/batches/routes.ts";
import { WebReply, WebRequest } from "../../../packages/express/src/http/web.ts";
import { Deferred } from "../../support/deferred.ts";
import { manualTimers } from "../../support/manual-timers.ts";
import { randomInteger, seededRandom } from "../../support/random.ts";
import { openSocket, readAll } from "../../support/raw-http.ts";
import { chunksInTurns, scriptedEngine } from "../../support/scripted-engine.ts";
import { listen } from "../../support/served-model.ts";
import { persistentFolder, temporaryFolder } from "../../support/temporary-folder.ts";

const folder = await persistentFolder();
const open = (options: Partial<BatchesOptions> & { readonly folder: string }): FetchHandler =>
  fetchHandler({ engine: scriptedEngine(chunksInTurns()), keys: { ann: "a", bob: "b" }, batches: options });
const handler = open({ folder });
afterAll(() => handler.dispose());

const FORM = [
  '--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n',
  '--b\r\ncontent-disposition: form-data; name="expires_after[seconds]"\r\n\r\n3600\r\n',
  '--b\r\ncontent-disposition: form-data; name="file"; filename="../../x"\r\n',
  "content-type: application/jsonl\r\n\r\nfirst\r\nsecond\r\n--b--\r\n",
].join("");

function post(body: RequestInit["body"], to: FetchHandler = handler, key = "a"): Promise<Response> {
  const headers = { authorization: `Bearer ${key}`, "content-type": "multipart/form-data; boundary=b" };
  const init = { method: "POST", headers, body, duplex: "half" } as RequestInit;
  return to.fetch(new Request("http://localhost/v1/files", init));
}

/** Sends bytes in pieces of random sizes. */
function inPieces(bytes: Uint8Array, random: () => number): ReadableStream<Uint8Array> {
  let start = 0;
  return new ReadableStream({
    pull(controller) {
      if (start >= bytes.length) return controller.close();
      const end = start + 1 + Math.floor(random() * 40);
      controller.enqueue(bytes.slice(start, end));
      start = end;
    },
  });
}

test("a form in pieces of any size is the same file; its name is only shown", async () => {
  const random = seededRandom(1);
  const [purpose = "", age = "", file = ""] = FORM.split(/(?=--b\r\n)/);
  const fileFirst = file.replace("--b--\r\n", "") + purpose + age + "--b--\r\n";
  for (let run = 0; run < 12; run++) {
    const answer = await post(inPieces(Buffer.from(run % 2 ? FORM : fileFirst), random));
    const stored = (await answer.json()) as { id: string; expires_at: number; created_at: number };
    expect(stored).toMatchObject({ bytes: 13, filename: "x" });
    expect(stored.expires_at - stored.created_at).toBe(3600);
    const path = `http://localhost/v1/files/${stored.id}/content`;
    const content = await handler.fetch(new Request(path, { headers: { authorization: "Bearer a" } }));
    expect(await content.text()).toBe("first\r\nsecond");
  }
});

test("forms that are cut off or damaged are refused or are files, and leave nothing behind", async () => {
  const bytes = Buffer.from(FORM);
  const random = seededRandom(2);
  const statuses = new Set<number>();
  const numBefore = (await readdir(join(folder, "files"))).length;
  for (let length = 0; length < bytes.length - 4; length += 3) {
    const answer = await post(inPieces(bytes.subarray(0, length), random));
    expect(answer.status).toBe(400);
  }
  expect(await readdir(join(folder, "files"))).toHaveLength(numBefore);
  for (let run = 0; run < 150; run++) {
    const damaged = Uint8Array.from(bytes);
    for (let count = 0; count < 3; count++) {
      damaged[Math.floor(random() * damaged.length)] = Math.floor(random() * 256);
    }
    statuses.add((await post(inPieces(damaged, random))).status);
  }
  expect([...statuses].toSorted((a, b) => a - b)).toEqual([200, 400]);
  expect((await readdir(folder)).toSorted()).toEqual(["batches", "files"]);
  const names = (await readdir(join(folder, "files"))).toSorted();
  const ids = names.filter((name) => !name.includes("."));
  expect(names).toEqual(ids.flatMap((id) => [id, `${id}.json`]));
});

test("a client that leaves takes its file along", async () => {
  const path = await temporaryFolder();
  await using own = open({ folder: path });
  const failing = new ReadableStream<Uint8Array>({
    start: (controller) => controller.enqueue(Buffer.from(FORM.slice(0, -20))),
    pull: (controller) => controller.error(new Error("gone")),
  });
  expect((await post(failing, own)).status).toBe(400);
  expect(await readdir(join(path, "files"))).toEqual([]);
});

const HEAD = '--b\r\ncontent-disposition: form-data; name="file"; filename="x"\r\n\r\n';

/** A server with keys on a port, and clients of it that send files byte by byte. */
async function dripServer(): Promise<{
  readonly timers: ReturnType<typeof manualTimers>;
  readonly folder: string;
  readonly drip: (key: string) => Promise<{ readonly send: (text: string) => void; readonly status: Promise<string> }>;
}> {
  const timers = manualTimers();
  const path = await temporaryFolder();
  const engine = scriptedEngine(chunksInTurns());
  const server = await listen(
    express().use(readMe({ engine, timers, keys: { ann: "a", bob: "b" }, batches: { folder: path } })),
  );
  onTestFinished(() => server[Symbol.asyncDispose]());
  return {
    timers,
    folder: path,
    async drip(key) {
      const socket = await openSocket(server.port);
      const status = readAll(socket).then((text) => text.slice(9, 12));
      const type = "Content-Type: multipart/form-data; boundary=b";
      const head = [
        "POST /v1/files HTTP/1.1",
        "Host: x",
        `Authorization: Bearer ${key}`,
        type,
        "Content-Length: 1000000",
      ];
      socket.write(`${head.join("\r\n")}\r\n\r\n${HEAD}`);
      return { status, send: (text) => void socket.write(text) };
    },
  };
}

test("a client whose files hardly arrive leaves places to others, and its files are cut", async () => {
  const { timers, drip, folder: path } = await dripServer();
  const numArriving = (): number => timers.count(LIMITS.uploadMs.value);
  for (let round = 0; round < 3; round++) {
    const slow = await Promise.all(Array.from({ length: 8 }, () => drip("a")));
    await expect.poll(numArriving).toBe(4);
    const other = await drip("b");
    await expect.poll(numArriving).toBe(5);
    // A byte now and then does not begin the time anew.
    for (const { send } of [...slow, other]) send("x");
    expect(timers.fire(LIMITS.uploadSliceMs.value)).toBe(5);
    const statuses = await Promise.all(slow.map(({ status }) => status));
    expect(statuses.toSorted()).toEqual([...Array<string>(4).fill("408"), ...Array<string>(4).fill("429")]);
    expect(await other.status).toBe("408");
    expect(numArriving()).toBe(0);
  }
  expect(await readdir(join(path, "files"))).toEqual([]);
});

test("a file may take long while 64 KiB after 64 KiB arrive, but not for ever", async () => {
  const { timers, drip } = await dripServer();
  const { send, status } = await drip("a");
  const { uploadMs, uploadSliceMs } = LIMITS;
  for (let count = 0; count < 5; count++) {
    await timers.waiting(uploadSliceMs.value);
    const begun = timers.waitingSince(uploadSliceMs.value);
    send("x".repeat(64 << 10));
    await expect.poll(() => timers.waitingSince(uploadSliceMs.value)).not.toBe(begun);
  }
  expect(timers.fire(uploadMs.value)).toBe(1);
  expect(await status).toBe("408");
  expect(timers.count(uploadSliceMs.value)).toBe(0);
});

test("the time in which the server itself holds a file up is not counted", async () => {
  const timers = manualTimers();
  const [held, gate] = [new Deferred(), new Deferred()];
  const stored: number[] = [];
  const files = {
    async receive(_client: string, chunks: AsyncIterable<Uint8Array>, describe: () => Promise<object>) {
      held.resolve();
      await gate.promise;
      for await (const chunk of chunks) stored.push(chunk.length);
      return describe();
    },
  };
  const text = FORM.replace("first", "x".repeat(1 << 20));
  const headers = { "content-type": "multipart/form-data; boundary=b" };
  const web = new Request("http://localhost/v1/files", { method: "POST", headers, body: text });
  const request = new WebRequest(web, { baseUrl: "", address: undefined });
  const times = { sliceMs: 10, totalMs: 20, timers };
  const upload = {
    files: files as never,
    client: "ann",
    request,
    response: new WebReply(request),
    maxFileBytes: 2 << 20,
  };
  const received = receiveUpload({ ...upload, ...times });
  await held.promise;
  for (let count = 0; count < 3; count++) {
    expect([timers.fire(10), timers.count(20)]).toEqual([1, 1]);
  }
  gate.resolve();
  expect(await received).toMatchObject({ client: "ann", filename: "x" });
  expect(stored.reduce((sum, bytes) => sum + bytes, 0)).toBe((1 << 20) + "\r\nsecond".length);
  expect([timers.count(10), timers.count(20)]).toEqual([0, 0]);
});

const UPLOAD = { requests: 1, tokens: 0, bytes: 0 } as const;

function uploadOverflow(
  arriving: readonly string[],
  client: string,
  { maxUploads, maxClientShare }: { readonly maxUploads: number; readonly maxClientShare: number },
): "all" | "client" | undefined {
  const loads = new ClientLoads({ requests: maxUploads, tokens: Infinity, bytes: Infinity }, maxClientShare);
  for (const one of arriving) loads.add(one, UPLOAD);
  if (loads.overflow(UPLOAD)) return "all";
  return loads.overflowOfFree(client, UPLOAD) && "client";
}

test("a client has its share of the places for arriving files that others leave free", () => {
  const random = seededRandom(3);
  for (let run = 0; run < 200; run++) {
    const limits = { maxUploads: 1 + randomInteger(random, 12), maxClientShare: Math.max(0.1, random()) };
    const arriving: string[] = [];
    for (let step = 0; step < 60; step++) {
      const client = "abcdef".charAt(randomInteger(random, 6));
      if (random() < 0.3) arriving.splice(randomInteger(random, arriving.length + 1), 1);
      const own = arriving.filter((one) => one === client).length;
      const [numTaken, numLeft] = [arriving.length, limits.maxUploads - (arriving.length - own)];
      const found = uploadOverflow(arriving, client, limits);
      if (numTaken === limits.maxUploads) expect(found).toBe("all");
      else if (own === 0) expect(found).toBeUndefined();
      else expect(found).toBe(own + 1 > Math.ceil(numLeft * limits.maxClientShare) ? "client" : undefined);
      if (!found) arriving.push(client);
    }
  }
  // Three clients that take what they can leave a place for a fourth.
  const arriving: string[] = [];
  const limits = { maxUploads: LIMITS.uploads.value, maxClientShare: LIMITS.uploadShare.value };
  for (const client of ["a", "b", "c"]) while (!uploadOverflow(arriving, client, limits)) arriving.push(client);
  expect(arriving.join("")).toBe("aaaabbc");
  expect(uploadOverflow(arriving, "d", limits)).toBeUndefined();
});

test("a full store refuses further files, and a client has its share only", async () => {
  await using own = open({ folder: await temporaryFolder(), maxFiles: 4, maxBytes: 4 * 13 });
  const told = async (key: string): Promise<unknown> => {
    const answer = await post(FORM, own, key);
    return answer.status === 200 ? 200 : ((await answer.json()) as { error: { code: string } }).error.code;
  };
  expect(await Promise.all([told("a"), told("a")])).toEqual([200, 200]);
  expect([await told("a"), await told("b"), await told("b"), await told("b")]).toEqual([
    "storage_full",
    200,
    200,
    "storage_full",
  ]);
});

test("room for files is counted by number and bytes, of all and of a client", () => {
  const limits = { maxFiles: 4, maxBytes: 100, maxClientShare: 0.5 };
  const [ann, bob] = ["ann", "bob"].map((client) => ({ client, bytes: 20 }));
  if (!ann || !bob) throw new Error("Expected two clients");
  expect(missingRoom([], { client: "ann", bytes: 50 }, limits)).toBeUndefined();
  expect(missingRoom([], { client: "ann", bytes: 51 }, limits)).toBe("bytes");
  expect(missingRoom([ann], { client: "ann", bytes: 30 }, limits)).toBeUndefined();
  expect(missingRoom([ann], { client: "ann", bytes: 31 }, limits)).toBe("bytes");
  expect(missingRoom([ann, ann], ann, limits)).toBe("files");
  expect(missingRoom([ann, ann], bob, limits)).toBeUndefined();
  expect(missingRoom([ann, ann, bob, bob], { client: "eve", bytes: 0 }, limits)).toBe("files");
  expect(missingRoom([ann, ann, bob], { client: "eve", bytes: 41 }, limits)).toBe("bytes");
});

const bad = (batches: object) => (): unknown => open(batches as never);

test("options are checked by name, and the folder at once", async () => {
  expect(bad({})).toThrow(/`batches.folder`/);
  expect(bad({ folder: join(import.meta.filename, "below") })).toThrow(
    /`batches.folder` to be a folder that can be written/,
  );
  expect(bad({ folder, maxFiles: 0 })).toThrow(/`batches.maxFiles`/);
  expect(bad({ folder, maxLoad: 2 })).toThrow(/`batches.maxLoad`/);
  expect(bad({ folder, other: 2 })).toThrow(/other/);
  expect(bad({ folder, onError: 2 })).toThrow(/`batches.onError`/);
});
