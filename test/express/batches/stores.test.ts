// The stores of files and batches beside plain ones, under random operations of two processes that share a folder, and
// of which one or the other starts again.

import { mkdir, readdir, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { fileAnswerOf, FileStore, newFileId, type NewFile } from "../../../packages/express/src/batches/files.ts";
import {
  batchAnswerOf,
  BatchStore,
  type BatchEnd,
  type Progress,
} from "../../../packages/express/src/batches/store.ts";
import { randomInteger, seededRandom } from "../../support/random.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const CLIENTS = ["key:ann", "key:bob", "key:eve"] as const;
const NUM_RUNS = 6;
const NUM_STEPS = 120;

/** Two processes over one folder. */
interface Two<Store> {
  /** Returns either of them. */
  readonly store: () => Store;
  readonly restart: () => void;
}

function two<Store>(open: () => Store, random: () => number): Two<Store> {
  const stores = [open(), open()];
  const one = (): number => randomInteger(random, 2);
  return { store: () => stores[one()] as Store, restart: () => void (stores[one()] = open()) };
}

async function* once(text: string): AsyncGenerator<Uint8Array, void> {
  yield Buffer.from(text);
}

async function textOf(chunks: AsyncIterable<Buffer>): Promise<string> {
  const all: Buffer[] = [];
  for await (const chunk of chunks) all.push(chunk);
  return Buffer.concat(all).toString();
}

const codeOf = (error: unknown): unknown => (error as { readonly code?: unknown }).code;

test("files are those of a plain store", async () => {
  for (let run = 0; run < NUM_RUNS; run++) {
    const random = seededRandom(100 + run);
    const pick = <Item>(items: readonly Item[]): Item => items[randomInteger(random, items.length)] as Item;
    let now = 1000;
    const limits = { maxFiles: 7, maxBytes: 60, maxClientShare: 0.5, maxAgeSeconds: 50 };
    const folder = await temporaryFolder();
    const { store, restart } = two(() => new FileStore(folder, limits, () => now), random);
    let kept: { id: string; client: string; text: string; createdAt: number; expiresAt: number; filename: string }[] =
      [];
    const purpose = "batch" as const;
    const idOf = (): string => (kept.length > 0 && random() < 0.9 ? pick(kept).id : newFileId());
    for (let step = 0; step < NUM_STEPS; step++) {
      const client = pick(CLIENTS);
      // Equal texts and names belong to different files.
      const [text, filename] = ["x".repeat(randomInteger(random, 12)), pick(["a", "b"])];
      const [keptSeconds, action] = [pick([undefined, 5, 50]), randomInteger(random, 8)];
      const file: NewFile = { client, filename, purpose, keptSeconds };
      const added = { client, text, createdAt: now, expiresAt: now + (keptSeconds ?? 50), filename };
      const bytesOf = (files: typeof kept): number => files.reduce((sum, one) => sum + one.text.length, text.length);
      const own = kept.filter((one) => one.client === client);
      if (action < 3) {
        const isFull = kept.length >= 7 || own.length >= 4 || bytesOf(kept) > 60 || bytesOf(own) > 30;
        const stored = await store()
          .receive(client, once(text), async () => file)
          .catch(codeOf);
        if (isFull) expect(stored).toBe("storage_full");
        else kept.push({ id: (stored as { readonly id: string }).id, ...added });
      } else if (action === 3) {
        const id = newFileId();
        await store().put(id, file, once(text));
        kept.push({ id, ...added });
      } else if (action === 4) {
        const id = idOf();
        await store().remove(id);
        kept = kept.filter((one) => one.id !== id);
      } else if (action === 5) {
        const used = new Set(kept.filter(() => random() < 0.3).map(({ id }) => id));
        await store().sweep(used);
        kept = kept.filter(({ id, expiresAt }) => expiresAt > now || used.has(id));
      } else if (action === 6) restart();
      else now += randomInteger(random, 10);
      const answers = kept
        .filter((one) => one.client === client && one.expiresAt > now)
        .toSorted((a, b) => a.createdAt - b.createdAt || (a.id < b.id ? -1 : 1))
        .map((one) => ({
          id: one.id,
          object: "file",
          bytes: one.text.length,
          created_at: one.createdAt,
          expires_at: one.expiresAt,
          filename: one.filename,
          purpose,
          status: "processed",
        }));
      expect((await store().listOf(client)).map(fileAnswerOf)).toStrictEqual(answers);
      const id = idOf();
      const found = await store().get(id, client);
      expect(found && fileAnswerOf(found)).toStrictEqual(answers.find((one) => one.id === id));
      if (found) expect(await textOf(store().content(id))).toBe(kept.find((one) => one.id === id)?.text);
    }
  }
});

interface PlainBatch {
  readonly id: string;
  readonly client: string;
  readonly createdAt: number;
  progress?: Progress;
  cancelledAt?: number;
  end?: BatchEnd;
}

test("batches are those of a plain store", async () => {
  for (let run = 0; run < NUM_RUNS; run++) {
    const random = seededRandom(200 + run);
    const pick = <Item>(items: readonly Item[]): Item => items[randomInteger(random, items.length)] as Item;
    let now = 1000;
    const limits = { maxBatches: 6, maxClientShare: 0.5, maxAgeSeconds: 30 };
    const folder = await temporaryFolder();
    const { store, restart } = two(() => new BatchStore(folder, limits, () => now), random);
    let kept: PlainBatch[] = [];
    const order = (a: PlainBatch, b: PlainBatch): number => a.createdAt - b.createdAt || (a.id < b.id ? -1 : 1);
    /** Makes room as the docs say. @returns `undefined` where too many have not ended */
    const withRoom = (client: string): PlainBatch[] | undefined => {
      const left = kept.toSorted(order);
      for (const [most, counts] of [
        [3, (one: PlainBatch) => one.client === client],
        [6, () => true],
      ] as const) {
        while (left.filter(counts).length >= most) {
          const oldest = left.findIndex((one) => counts(one) && one.end);
          if (oldest < 0) return undefined;
          left.splice(oldest, 1);
        }
      }
      return left;
    };
    const asked = { inputFileId: "file-1", endpoint: "/v1/completions", expiresAt: 9000, metadata: null } as const;
    for (let step = 0; step < NUM_STEPS; step++) {
      const [client, action] = [pick(CLIENTS), randomInteger(random, 9)];
      const batch = kept.length > 0 ? pick(kept) : undefined;
      if (action < 3) {
        const left = withRoom(client);
        const added = await store()
          .add({ client, ...asked })
          .catch(codeOf);
        if (!left) expect(added).toBe("too_many_batches");
        else {
          const { id } = added as { readonly id: string };
          kept = [...left, { id, client, createdAt: now }];
        }
      } else if (action === 3) {
        await store().sweep();
        kept = kept.filter(({ end }) => !end || end.at + 30 > now);
      } else if (action === 4) restart();
      else if (action === 5) now += randomInteger(random, 10);
      else if (batch && !batch.end) {
        if (action === 6) {
          batch.progress = { total: 9, completed: step % 5, failed: 1, inProgressAt: now };
          await store().note(batch.id, batch.progress);
        } else if (action === 7) {
          await store().cancel(batch.id);
          batch.cancelledAt ??= now;
        } else {
          const end: BatchEnd = {
            status: pick(["completed", "cancelled", "expired"]),
            at: now,
            total: 9,
            completed: 8,
            failed: 1,
          };
          expect(await store().end(batch.id, end)).toBe(true);
          expect(await store().end(batch.id, { ...end, status: "failed", at: now + 1 })).toBe(false);
          batch.end = end;
        }
      }
      const expected = kept
        .toSorted(order)
        .map(({ id, client: of, createdAt, progress, cancelledAt, end }) =>
          batchAnswerOf({ record: { id, createdAt, client: of, ...asked }, progress, cancellingAt: cancelledAt, end }),
        );
      expect((await store().list()).map(batchAnswerOf)).toStrictEqual(expected);
      expect(await store().read("batch_000000000000000000000000")).toBeUndefined();
    }
  }
});

test("what killed processes have left is removed after a day, and nothing else", async () => {
  const [filesFolder, batchesFolder] = [await temporaryFolder(), await temporaryFolder()];
  const limits = { maxFiles: 9, maxBytes: 99, maxBatches: 6, maxClientShare: 1, maxAgeSeconds: 1e6 };
  const files = new FileStore(filesFolder, limits, () => 1e6);
  const batches = new BatchStore(batchesFolder, limits, () => 1e6);
  const file = await files.receive("a", once("x"), async () => ({ client: "a", filename: "in", purpose: "batch" }));
  const asked = { client: "a", inputFileId: file.id, endpoint: "/v1/completions", metadata: null } as const;
  const { id } = await batches.add({ ...asked, expiresAt: 2e6 });
  const [old, recent] = [newFileId(), newFileId()];
  for (const name of [old, `${old}.json.1.tmp`, recent]) await writeFile(join(filesFolder, name), "x");
  await mkdir(join(batchesFolder, "old"));
  const longAgo = 1e6 - 24 * 3600 - 1;
  for (const path of [file.id, old, `${old}.json.1.tmp`]) await utimes(join(filesFolder, path), longAgo, longAgo);
  await utimes(join(batchesFolder, "old"), longAgo, longAgo);
  await utimes(join(batchesFolder, id), longAgo, longAgo);
  await utimes(join(filesFolder, recent), 1e6, 1e6);
  await files.sweep(new Set());
  await batches.sweep();
  expect((await readdir(filesFolder)).toSorted()).toEqual([file.id, `${file.id}.json`, recent].toSorted());
  expect(await readdir(batchesFolder)).toEqual([id]);
});
