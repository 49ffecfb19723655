// Damaged forms, cancelled uploads and full stores leave nothing behind.

import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { fetchHandler, type BatchesOptions, type FetchHandler } from "@readme-moe/express";
import { afterAll, expect, test } from "vitest";
import { missingRoom } from "../../../packages/express/src/batches/limits.ts";
import { seededRandom } from "../../support/random.ts";
import { chunksInTurns, scriptedEngine } from "../../support/scripted-engine.ts";
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
  expect(await readdir(join(folder, "tmp"))).toEqual([]);
  expect((await readdir(folder)).toSorted()).toEqual(["batches", "files", "tmp"]);
});

test("a client that leaves takes its file along", async () => {
  const path = await temporaryFolder();
  await using own = open({ folder: path });
  const failing = new ReadableStream<Uint8Array>({
    start: (controller) => controller.enqueue(Buffer.from(FORM.slice(0, -20))),
    pull: (controller) => controller.error(new Error("gone")),
  });
  expect((await post(failing, own)).status).toBe(400);
  expect(await readdir(join(path, "tmp"))).toEqual([]);
  expect(await readdir(join(path, "files"))).toEqual([]);
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
