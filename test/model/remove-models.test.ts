// Removed models: what goes with them, what stays for others, and when they are not removed.

import { cp, lstat, readdir, readFile, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test, vi } from "vitest";
import { holdModel, openModel, removeModels, resolveModel } from "@readme-moe/model";
import * as fc from "../support/fast-check.ts";
import { filesBelow, llama, NAME } from "../support/hub-setup.ts";
import {
  blobsIn,
  caches,
  EIGHT,
  FOUR,
  list,
  namesOf,
  pack,
  remove,
  serve,
  useEmptyCaches,
} from "../support/model-library.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const LLAMA_BYTES = Object.values(llama).reduce((sum, content) => sum + content.byteLength, 0);

useEmptyCaches();

describe("a removal", () => {
  test("takes files, packed weights, remembered hashes and notes, and leaves nothing", async () => {
    await serve(NAME, llama);
    const path = await resolveModel(NAME);
    const model = await openModel(path);
    await model.fingerprint(caches.own);
    await model.close();
    await pack(path, "int8");
    const freed = await remove(NAME);
    expect(freed).toBeGreaterThan(LLAMA_BYTES + 1000);
    expect(await filesBelow(caches.hub)).toEqual([]);
    expect(await filesBelow(caches.own)).toEqual([]);
    expect(await list()).toEqual({ models: [], unclaimed: [] });
    expect(await resolveModel(NAME)).toBe(path);
  });

  test("keeps contents that another revision or file of the repository has, and the other's packed weights", async () => {
    const server = await serve(NAME, { "a.gguf": EIGHT, "b.gguf": FOUR });
    server.commit({ "a.gguf": EIGHT }, "other");
    for (const name of [`${NAME}:a.gguf`, `${NAME}:b.gguf`, `${NAME}@other:a.gguf`]) {
      await pack(await resolveModel(name), name);
    }
    expect(await blobsIn()).toHaveLength(2);
    await remove(`${NAME}@main:a.gguf`);
    expect(await blobsIn()).toHaveLength(2);
    const { models } = await list();
    expect(namesOf(models)).toEqual([`${NAME}:b.gguf`, `${NAME}@other:a.gguf`].toSorted());
    for (const { path, packed } of models) {
      expect((await readFile(path)).byteLength).toBeGreaterThan(0);
      expect(packed).toHaveLength(1);
    }
    await remove(`${NAME}@other`);
    expect(await blobsIn()).toHaveLength(1);
    expect(await readdir(join(caches.hub, "models--tiny-org--llama-tied", "refs"))).toEqual(["main"]);
    await remove(`${NAME}:b.gguf`);
    expect(await readdir(caches.hub)).toEqual([]);
  });

  test("keeps packed weights that a model with the same content uses", async () => {
    await serve(NAME, llama);
    const path = await resolveModel(NAME);
    const copy = join(await temporaryFolder(), "copy");
    await cp(path, copy, { recursive: true, dereference: true });
    expect(await pack(path, "same")).toBe(await pack(copy, "same"));
    await pack(path, "own");
    await remove(NAME);
    const { models, unclaimed } = await list();
    expect(models).toMatchObject([{ name: copy, packed: [{ kind: "kernels" }] }]);
    expect(unclaimed).toEqual([]);
  });

  test("never touches a folder of the user's own", async () => {
    const own = await temporaryFolder();
    for (const [name, content] of Object.entries(llama)) await writeFile(join(own, name), content);
    await pack(own, "own");
    await remove(own);
    expect(await readdir(own)).toEqual(Object.keys(llama).toSorted());
    expect(await filesBelow(caches.own)).toEqual([]);
  });

  test("is refused while a process has the model open, or downloads into its repository", async () => {
    await serve(NAME, { "a.gguf": EIGHT, "b.gguf": FOUR });
    const path = await resolveModel(`${NAME}:a.gguf`);
    await resolveModel(`${NAME}:b.gguf`);
    for (const used of [path, join(caches.hub, "models--tiny-org--llama-tied")]) {
      const hold = await holdModel(caches.own, used);
      await expectReadMeError(remove(NAME), "ERR_MODEL_IN_USE", used, `process ${process.pid}`);
      expect(namesOf((await list()).models)).toHaveLength(2);
      await hold.release();
    }
    // The other file is free meanwhile.
    const hold = await holdModel(caches.own, path);
    expect((await list()).models.filter(({ users }) => users.length > 0)).toMatchObject([{ path }]);
    await remove(`${NAME}:b.gguf`);
    expect(namesOf((await list()).models)).toEqual([`${NAME}:a.gguf`]);
    await hold.release();
  });

  test("works where snapshots are no symbolic links, and follows none out of the repository", async () => {
    vi.stubEnv("HF_HUB_DISABLE_SYMLINKS", "1");
    await serve(NAME, { "a.gguf": EIGHT, "b.gguf": FOUR });
    await resolveModel(`${NAME}:a.gguf`);
    const path = await resolveModel(`${NAME}:b.gguf`);
    expect((await lstat(path)).isSymbolicLink()).toBe(false);
    await remove(`${NAME}:a.gguf`);
    expect(await blobsIn()).toHaveLength(1);
    // Such a link could be made by a tool that keeps models elsewhere.
    const outside = join(await temporaryFolder(), "outside.gguf");
    await writeFile(outside, EIGHT);
    await symlink(outside, join(path, "..", "c.gguf"));
    await remove(`${NAME}:c.gguf`);
    expect(await readFile(outside)).toEqual(EIGHT);
    expect(namesOf((await list()).models)).toEqual([`${NAME}:b.gguf`]);
  });

  test("of any selection in any order leaves exactly the others whole", async () => {
    const server = await serve(NAME, { ...llama, "a.gguf": EIGHT, "b.gguf": FOUR });
    server.commit({ ...llama, "a.gguf": FOUR, "b.gguf": EIGHT }, "next");
    const all = ["main", "next"].flatMap((revision) =>
      ["", ":a.gguf", ":b.gguf"].map((file) => `${NAME}@${revision}${file}`),
    );
    const contents = new Map<string, Buffer>();
    await fc.assert(
      fc.asyncProperty(fc.shuffledSubarray(all), async (removed) => {
        const paths = new Map<string, string>();
        for (const name of all) {
          const path = await resolveModel(name);
          const file = path.endsWith(".gguf") ? path : join(path, "model.safetensors");
          paths.set(name, file);
          contents.set(name, contents.get(name) ?? (await readFile(file)));
        }
        for (const name of removed) {
          const listed = await list();
          const model = listed.models.find(
            ({ path }) => paths.get(name) === path || paths.get(name) === join(path, "model.safetensors"),
          );
          await removeModels(model ? [model] : [], listed);
        }
        const left = all.filter((name) => !removed.includes(name));
        const { models } = await list();
        expect(
          models.filter(({ isComplete }) => isComplete).map(({ name }) => name),
          removed.join(),
        ).toHaveLength(left.length);
        for (const name of left)
          expect((await readFile(paths.get(name) ?? "")).equals(contents.get(name) ?? EIGHT)).toBe(true);
        if (left.length === 0) expect(await readdir(caches.hub)).toEqual([]);
      }),
      { numRuns: 12 },
    );
  });
});
