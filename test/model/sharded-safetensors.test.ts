import { mkdir, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { ShardedSafetensors } from "../../packages/model/src/safetensors/safetensors-file.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { safetensorsBytes } from "../support/safetensors-bytes.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const INDEX = "model.safetensors.index.json";

function shard(...names: readonly string[]): Uint8Array {
  const header: Record<string, object> = {};
  for (const [i, name] of names.entries()) header[name] = { dtype: "U8", shape: [2], data_offsets: [2 * i, 2 * i + 2] };
  return safetensorsBytes(
    header,
    Uint8Array.from({ length: 2 * names.length }, (_, i) => i),
  );
}

/** Makes a folder with two shards and an index. */
async function indexOf(index: string | object): Promise<string> {
  const folder = await temporaryFolder();
  await writeFile(join(folder, "one.safetensors"), shard("a", "b"));
  await writeFile(join(folder, "two.safetensors"), shard("c"));
  await writeFile(join(folder, INDEX), typeof index === "string" ? index : JSON.stringify(index));
  return join(folder, INDEX);
}

describe("ShardedSafetensors", () => {
  test("reads each tensor from the file that the index names", async () => {
    const weightMap = { c: "two.safetensors", b: "one.safetensors" };
    const path = await indexOf({ metadata: { total_size: 6, more: [1.5, null] }, weight_map: weightMap });
    const store = await ShardedSafetensors.open(path);
    expect(store.path).toBe(path);
    expect(store.names).toEqual(["c", "b"]);
    expect(store.has("a")).toBe(false);
    expect(store.info("b")).toMatchObject({ name: "b", type: "U8", shape: [2], byteLength: 2 });
    expect([...(await store.readBytes("b"))]).toEqual([2, 3]);
    expect([...(await store.readBytes("c", { from: 1, to: 2 }))]).toEqual([1]);
    await expectReadMeError(store.readFloats("b"), "ERR_MODEL_INVALID", "one.safetensors", '"b"');
    await expectReadMeError(store.readFloats("a"), "ERR_MODEL_INVALID", path, '"a"');
    await store.close();
    await expectReadMeError(store.readBytes("b"), "ERR_DISPOSED", "one.safetensors");
  });

  test("opens shards that are links of a Hugging Face cache", async () => {
    const repository = join(await temporaryFolder(), "models--some--model");
    const snapshot = join(repository, "snapshots", "0123abc");
    await mkdir(snapshot, { recursive: true });
    await mkdir(join(repository, "blobs"));
    await writeFile(join(repository, "blobs", "1"), shard("a"));
    await writeFile(join(repository, "blobs", "2"), JSON.stringify({ weight_map: { a: "one.safetensors" } }));
    await symlink("../../blobs/1", join(snapshot, "one.safetensors"));
    await symlink("../../blobs/2", join(snapshot, INDEX));
    const store = await ShardedSafetensors.open(join(snapshot, INDEX));
    expect([...(await store.readBytes("a"))]).toEqual([0, 1]);
    await store.close();
  });

  test("names index, shard and tensor when the shard is missing or lacks the tensor", async () => {
    const missing = await indexOf({ weight_map: { a: "one.safetensors", z: "three.safetensors" } });
    await expectReadMeError(
      ShardedSafetensors.open(missing),
      "ERR_FILE_NOT_FOUND",
      missing,
      "three.safetensors",
      '"z"',
    );
    const lacking = await indexOf({ weight_map: { a: "one.safetensors", z: "two.safetensors" } });
    await expectReadMeError(ShardedSafetensors.open(lacking), "ERR_MODEL_INVALID", lacking, "two.safetensors", '"z"');
  });

  test.each(["../one.safetensors", "/etc/passwd", "a\\b", "x/../one.safetensors", ""])(
    "refuses the shard name %j",
    async (name) => {
      const path = await indexOf({ weight_map: { a: name } });
      await expectReadMeError(ShardedSafetensors.open(path), "ERR_FILE_CORRUPT", path, '"a"', JSON.stringify(name));
    },
  );

  test("names the damaged shard", async () => {
    const path = await indexOf({ weight_map: { a: INDEX } });
    await expectReadMeError(ShardedSafetensors.open(path), "ERR_FILE_CORRUPT", path);
  });

  test.each([
    ["no object", "[]"],
    ["no weight map", '{"metadata":{}}'],
    ["a weight map of numbers", '{"weight_map":{"a":1}}'],
    ["a tensor twice", '{"weight_map":{"a":"one.safetensors","a":"two.safetensors"}}'],
    ["text after its end", '{"weight_map":{}} {}'],
    ["arrays without end", `{"metadata":${"[".repeat(100_000)}`],
    ["a broken number", '{"metadata":-,"weight_map":{}}'],
    ["an unfinished string", '{"weight_map'],
    ["an unknown escape", String.raw`{"\q":1}`],
    ["nothing", ""],
  ])("refuses an index with %s", async (_, index) => {
    const path = await indexOf(index);
    await expectReadMeError(ShardedSafetensors.open(path), "ERR_FILE_CORRUPT", path);
  });

  test("refuses an index that is no UTF-8 or is missing", async () => {
    const folder = await temporaryFolder();
    await writeFile(join(folder, INDEX), Uint8Array.of(0x7b, 0xff, 0x7d));
    await expectReadMeError(ShardedSafetensors.open(join(folder, INDEX)), "ERR_FILE_CORRUPT", INDEX, "UTF-8");
    await expectReadMeError(ShardedSafetensors.open(join(folder, "none")), "ERR_FILE_NOT_FOUND", "none");
  });
});
