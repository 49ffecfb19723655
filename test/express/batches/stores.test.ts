// The stores of files and batches beside plain ones, under random operations of two processes that share a folder, and
// of which one or the other starts again.

import { mkdir, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { BatchStore } from "../../../packages/express/src/batches/batch-store.ts";
import { fileAnswerOf, FileStore, newFileId, type NewFile } from "../../../packages/express/src/batches/file-store.ts";
import { Root } from "../../../packages/express/src/batches/folder.ts";
import { batchAnswerOf, type BatchEnd, type Beat } from "../../../packages/express/src/batches/state.ts";
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
    const { store, restart } = two(() => new FileStore(new Root(folder, ["files"]), limits, () => now), random);
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
        const id = random() < 0.5 ? idOf() : newFileId();
        await store().put(id, file, once(text));
        if (!kept.some((one) => one.id === id)) kept.push({ id, ...added });
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
  owner: number;
  beat?: Beat;
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
    const { store, restart } = two(() => new BatchStore(new Root(folder, ["batches"]), limits, () => now), random);
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
          kept = [...left, { id, client, createdAt: now, owner: 0 }];
        }
      } else if (action === 3) {
        await store().sweep();
        kept = kept.filter(({ end }) => !end || end.at + 30 > now);
      } else if (action === 4) restart();
      else if (action === 5) now += randomInteger(random, 10);
      else if (batch && !batch.end) {
        if (action === 6) {
          const from = pick([batch.owner, 0]);
          expect(await store().claim(batch.id, from)).toBe(from === batch.owner);
          if (from === batch.owner) [batch.owner, batch.beat] = [from + 1, undefined as never];
          if (from + 1 === batch.owner) {
            batch.beat = { beat: step, isReleased: false, total: 9, completed: step % 5, failed: 1, inProgressAt: now };
            await store().beat(batch.id, batch.owner, batch.beat);
          }
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
          if (random() < 0.5) await store().removeOwners(batch.id);
        }
      }
      const expected = kept
        .toSorted(order)
        .map(({ id, client: of, createdAt, beat, cancelledAt, end }) =>
          batchAnswerOf({ record: { id, createdAt, client: of, ...asked }, beat, cancellingAt: cancelledAt, end }),
        );
      expect((await store().list()).map(batchAnswerOf)).toStrictEqual(expected);
      expect(await store().read("batch_000000000000000000000000")).toBeUndefined();
    }
  }
});

test("an owner whose batch was removed meanwhile changes nothing, and leaves nothing behind", async () => {
  const folder = await temporaryFolder();
  const limits = { maxBatches: 6, maxClientShare: 1, maxAgeSeconds: 30 };
  const store = new BatchStore(new Root(folder, ["batches"]), limits, () => 1000);
  const asked = { client: "key:ann", inputFileId: "file-1", endpoint: "/v1/completions", metadata: null } as const;
  const { id } = await store.add({ ...asked, expiresAt: 9000 });
  const beat: Beat = { beat: 1, isReleased: false, completed: 0, failed: 0 };
  const end: BatchEnd = { status: "cancelled", at: 1000, total: 0, completed: 0, failed: 0 };
  expect(await store.claim(id, 0)).toBe(true);
  expect(await store.end(id, end)).toBe(true);
  await store.removeOwners(id);
  await store.beat(id, 1, beat);
  // A process that has read the batch before its end.
  expect(await store.claim(id, 0)).toBe(false);
  expect(await readdir(store.folderOf(id))).toStrictEqual(["batch.json", "end"]);
  await rm(store.folderOf(id), { recursive: true });
  await store.beat(id, 1, beat);
  await store.cancel(id);
  expect([await store.claim(id, 1), await store.end(id, end)]).toStrictEqual([false, false]);
  expect([await readdir(join(folder, "batches")), await readdir(join(folder, "tmp"))]).toStrictEqual([[], []]);
  // A folder that cannot be written is a failure.
  await rm(join(folder, "tmp"), { recursive: true });
  await mkdir(join(store.folderOf(id), "owner-1"), { recursive: true });
  await expect(store.beat(id, 1, beat)).rejects.toMatchObject({ code: "ENOENT" });
});
