// The models on this machine: listed with their packed weights, and removed with what belongs to them alone.

import { cp, lstat, mkdir, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, describe, expect, test, vi } from "vitest";
import {
  type CachedModel,
  cachedData,
  holdModel,
  listModels,
  openModel,
  removeModels,
  removeUnclaimed,
  resolveModel,
  selectModels,
} from "@readme-moe/model";
import { cutAfter, HubServer } from "../support/hub-server.ts";
import { filesBelow, isolateEnvironment, llama, NAME, weights } from "../support/hub-setup.ts";
import * as fc from "../support/fast-check.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const EIGHT = Buffer.from("GGUF of eight bits. ".repeat(3000));
const FOUR = Buffer.from("GGUF of four bits. ".repeat(2000));
const LLAMA_BYTES = Object.values(llama).reduce((sum, content) => sum + content.byteLength, 0);

isolateEnvironment();

let cacheFolder: string;
let hubCache: string;

beforeEach(async () => {
  cacheFolder = join(await temporaryFolder(), "cache");
  hubCache = join(await temporaryFolder(), "hub");
  vi.stubEnv("HF_HUB_CACHE", hubCache);
});

async function serve(name: string, files: Parameters<HubServer["commit"]>[0]): Promise<HubServer> {
  const server = await HubServer.start(name);
  server.commit(files);
  vi.stubEnv("HF_ENDPOINT", server.endpoint);
  return server;
}

/** Packs something for a model, as an engine does. @returns the entry's name */
async function pack(modelPath: string, key: string, kind = "kernels"): Promise<string> {
  const chunks = async function* () {
    yield Buffer.alloc(1000, key);
  };
  const path = await cachedData(cacheFolder, { kind, key, note: "a note", modelPath, chunks });
  return path.split(/[/\\]/).at(-2) ?? "";
}

const list = () => listModels({ cacheFolder });

async function remove(...names: readonly string[]): Promise<number> {
  const listed = await list();
  const models = names.flatMap((name) => selectModels(listed.models, name, () => false).models);
  return (await removeModels([...new Set(models)], listed, { cacheFolder })).bytes;
}

const namesOf = (models: readonly CachedModel[]): readonly string[] => models.map(({ name }) => name).toSorted();
const blobsIn = async (): Promise<readonly string[]> =>
  (await filesBelow(hubCache)).filter((name) => name.includes("/blobs/"));

describe("the list", () => {
  test("is empty without a cache", async () => {
    expect(await list()).toEqual({ models: [], unclaimed: [] });
  });

  test("has a repository's safetensors, with family, sizes and packed weights", async () => {
    const server = await serve(NAME, llama);
    const path = await resolveModel(NAME, { cacheFolder });
    const keys = [await pack(path, "fp32"), await pack(path, "int8"), await pack(path, "int8")];
    const { models, unclaimed } = await list();
    expect(models).toHaveLength(1);
    expect(models[0]).toMatchObject({
      name: NAME,
      place: "hub",
      kind: "model",
      repository: NAME,
      revisions: ["main"],
      file: undefined,
      family: "llama",
      path,
      bytes: LLAMA_BYTES,
      isComplete: true,
      users: [],
    });
    expect(models[0]?.packed.map(({ key }) => key).toSorted()).toEqual([...new Set(keys)].toSorted());
    for (const { bytes } of models[0]?.packed ?? []) expect(bytes).toBeGreaterThan(1000);
    expect(unclaimed).toEqual([]);
    expect(server.fileRequests).toHaveLength(Object.keys(llama).length);
  });

  test("has each GGUF file and each revision of a repository by a name that commands understand", async () => {
    const server = await serve(NAME, { ...llama, "a.Q8_0.gguf": EIGHT, "a.Q4_0.gguf": FOUR });
    server.commit({ "a.Q8_0.gguf": FOUR }, "small");
    await resolveModel(NAME, { cacheFolder });
    for (const name of ["a.Q8_0.gguf", "a.Q4_0.gguf"]) await resolveModel(`${NAME}:${name}`, { cacheFolder });
    await resolveModel(`${NAME}@small:a.Q8_0.gguf`, { cacheFolder });
    const { models } = await list();
    const names = [NAME, `${NAME}:a.Q4_0.gguf`, `${NAME}:a.Q8_0.gguf`, `${NAME}@small:a.Q8_0.gguf`];
    expect(namesOf(models)).toEqual(names.toSorted());
    for (const model of models) {
      expect(await resolveModel(model.name, { cacheFolder })).toBe(model.path);
      expect(selectModels(models, model.name, () => false).models).toContain(model);
    }
  });

  test("has short names, and full ones where the short name stands for other weights", async () => {
    await serve("Qwen/Qwen3-0.6B-GGUF", { "Qwen3-0.6B-Q8_0.gguf": EIGHT });
    await resolveModel("qwen3:0.6b", { precision: "int8", cacheFolder });
    expect(namesOf((await list()).models)).toEqual(["qwen3:0.6b-q8_0"]);
    await serve("Qwen/Qwen3-0.6B", llama);
    await resolveModel("qwen3:0.6b", { cacheFolder });
    expect(namesOf((await list()).models)).toEqual(["qwen3:0.6b", "qwen3:0.6b-q8_0"]);
    expect(selectModels((await list()).models, "qwen3:0.6b", () => false).models).toHaveLength(2);
    expect(selectModels((await list()).models, "qwen3:0.6b-q8_0", () => false).models).toHaveLength(1);
  });

  test("has models elsewhere with packed weights, and says when they are gone", async () => {
    const folder = join(await temporaryFolder(), "own");
    await mkdir(folder);
    for (const [name, content] of Object.entries(llama)) await writeFile(join(folder, name), content);
    await pack(folder, "own");
    await (await holdModel(cacheFolder, join(folder, "never packed"))).release();
    expect((await list()).models).toMatchObject([
      { name: folder, place: "local", family: "llama", bytes: 0, isComplete: true, packed: [{ kind: "kernels" }] },
    ]);
    await rm(folder, { recursive: true });
    expect((await list()).models).toMatchObject([{ name: folder, place: "local", isComplete: false, packed: [{}] }]);
    expect(await remove(folder)).toBeGreaterThan(1000);
    expect(await list()).toEqual({ models: [], unclaimed: [] });
  });

  test("has adapters, interrupted downloads, and nothing of other tools' datasets or configs", async () => {
    const server = await serve(NAME, llama);
    server.fail(/^storage/, cutAfter(100_000, weights).fault);
    const abort = new AbortController();
    const onProgress = ({ doneBytes }: { doneBytes: number }): void => {
      if (doneBytes === 100_000) abort.abort(new Error("enough"));
    };
    await expect(resolveModel(NAME, { cacheFolder, onProgress, signal: abort.signal })).rejects.toThrow("enough");
    const adapter = join(hubCache, "models--org--lora", "snapshots", "a".repeat(40));
    await mkdir(adapter, { recursive: true });
    for (const name of ["adapter_config.json", "adapter_model.safetensors"]) await writeFile(join(adapter, name), "{}");
    for (const name of ["datasets--org--texts", "models--org--config"]) {
      const folder = join(hubCache, name, "snapshots", "b".repeat(40));
      await mkdir(folder, { recursive: true });
      await writeFile(join(folder, "config.json"), "{}");
    }
    await writeFile(join(hubCache, "version.txt"), "1");
    const { models } = await list();
    expect(models.toSorted((a, b) => (a.name < b.name ? -1 : 1))).toMatchObject([
      { name: `org/lora@${"a".repeat(12)}`, kind: "adapter", isComplete: true },
      { name: NAME, kind: "model", isComplete: false, bytes: 100_000 },
    ]);
    expect(await remove(NAME)).toBeGreaterThanOrEqual(100_000);
    expect(await readdir(hubCache)).not.toContain("models--tiny-org--llama-tied");
    expect(namesOf((await list()).models)).toEqual([`org/lora@${"a".repeat(12)}`]);
  });

  test("has files of packages, whole or in parts, which are removed with their folder", async () => {
    const folder = join(cacheFolder, "models", "smollm2-135m");
    await mkdir(folder, { recursive: true });
    await writeFile(join(folder, "SmolLM2-135M-Instruct.Q4_1.gguf.part0"), FOUR);
    const [model] = (await list()).models;
    expect(model).toMatchObject({ name: "smollm2:135m", place: "package", isComplete: false, bytes: FOUR.byteLength });
    await pack(model?.path ?? "", "packed");
    expect(selectModels((await list()).models, "smollm2-135m", () => false).models).toHaveLength(1);
    expect(await remove("smollm2:135m")).toBeGreaterThan(FOUR.byteLength + 1000);
    expect(await filesBelow(cacheFolder)).toEqual([]);
  });

  test("does not follow damaged files: they are listed without a family", async () => {
    await serve(NAME, { "a.gguf": EIGHT });
    await resolveModel(NAME, { cacheFolder });
    expect((await list()).models).toMatchObject([{ family: undefined, isComplete: true }]);
  });

  test("counts packed weights that no model is known of, which can be removed", async () => {
    const folder = await temporaryFolder();
    await pack(folder, "a");
    await rm(join(cacheFolder, "models-used"), { recursive: true });
    const { models, unclaimed } = await list();
    expect(models).toEqual([]);
    expect(unclaimed).toMatchObject([{ kind: "kernels" }]);
    expect(await removeUnclaimed(unclaimed, { cacheFolder })).toBe(unclaimed[0]?.bytes);
    expect(await list()).toEqual({ models: [], unclaimed: [] });
    expect(await readdir(join(cacheFolder, "kernels"))).toEqual([]);
  });
});

describe("a removal", () => {
  test("takes files, packed weights, remembered hashes and notes, and leaves nothing", async () => {
    await serve(NAME, llama);
    const path = await resolveModel(NAME, { cacheFolder });
    const model = await openModel(path);
    await model.fingerprint(cacheFolder);
    await model.close();
    await pack(path, "int8");
    const freed = await remove(NAME);
    expect(freed).toBeGreaterThan(LLAMA_BYTES + 1000);
    expect(await filesBelow(hubCache)).toEqual([]);
    expect(await filesBelow(cacheFolder)).toEqual([]);
    expect(await list()).toEqual({ models: [], unclaimed: [] });
    expect(await resolveModel(NAME, { cacheFolder })).toBe(path);
  });

  test("keeps contents that another revision or file of the repository has, and the other's packed weights", async () => {
    const server = await serve(NAME, { "a.gguf": EIGHT, "b.gguf": FOUR });
    server.commit({ "a.gguf": EIGHT }, "other");
    for (const name of [`${NAME}:a.gguf`, `${NAME}:b.gguf`, `${NAME}@other:a.gguf`]) {
      await pack(await resolveModel(name, { cacheFolder }), name);
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
    expect(await readdir(join(hubCache, "models--tiny-org--llama-tied", "refs"))).toEqual(["main"]);
    await remove(`${NAME}:b.gguf`);
    expect(await readdir(hubCache)).toEqual([]);
  });

  test("keeps packed weights that a model with the same content uses", async () => {
    await serve(NAME, llama);
    const path = await resolveModel(NAME, { cacheFolder });
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
    expect(await filesBelow(cacheFolder)).toEqual([]);
  });

  test("is refused while a process has the model open, or downloads into its repository", async () => {
    await serve(NAME, { "a.gguf": EIGHT, "b.gguf": FOUR });
    const path = await resolveModel(`${NAME}:a.gguf`, { cacheFolder });
    await resolveModel(`${NAME}:b.gguf`, { cacheFolder });
    for (const used of [path, join(hubCache, "models--tiny-org--llama-tied")]) {
      const hold = await holdModel(cacheFolder, used);
      await expectReadMeError(remove(NAME), "ERR_MODEL_IN_USE", used, `process ${process.pid}`);
      expect(namesOf((await list()).models)).toHaveLength(2);
      await hold.release();
    }
    // The other file is free meanwhile.
    const hold = await holdModel(cacheFolder, path);
    expect((await list()).models.filter(({ users }) => users.length > 0)).toMatchObject([{ path }]);
    await remove(`${NAME}:b.gguf`);
    expect(namesOf((await list()).models)).toEqual([`${NAME}:a.gguf`]);
    await hold.release();
  });

  test("works where snapshots are no symbolic links, and follows none out of the repository", async () => {
    vi.stubEnv("HF_HUB_DISABLE_SYMLINKS", "1");
    await serve(NAME, { "a.gguf": EIGHT, "b.gguf": FOUR });
    await resolveModel(`${NAME}:a.gguf`, { cacheFolder });
    const path = await resolveModel(`${NAME}:b.gguf`, { cacheFolder });
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
          const path = await resolveModel(name, { cacheFolder });
          const file = path.endsWith(".gguf") ? path : join(path, "model.safetensors");
          paths.set(name, file);
          contents.set(name, contents.get(name) ?? (await readFile(file)));
        }
        for (const name of removed) {
          const listed = await list();
          const model = listed.models.find(
            ({ path }) => paths.get(name) === path || paths.get(name) === join(path, "model.safetensors"),
          );
          await removeModels(model ? [model] : [], listed, { cacheFolder });
        }
        const left = all.filter((name) => !removed.includes(name));
        const { models } = await list();
        expect(
          models.filter(({ isComplete }) => isComplete).map(({ name }) => name),
          removed.join(),
        ).toHaveLength(left.length);
        for (const name of left)
          expect((await readFile(paths.get(name) ?? "")).equals(contents.get(name) ?? EIGHT)).toBe(true);
        if (left.length === 0) expect(await readdir(hubCache)).toEqual([]);
      }),
      { numRuns: 12 },
    );
  });
});
