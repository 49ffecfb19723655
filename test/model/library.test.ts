// The models on this machine: listed with their packed weights, and selected by name.

import { mkdir, readdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { downloadModel, holdModel, removeUnclaimed, resolveModel, selectModels } from "@readme-moe/model";
import { cutAfter } from "../support/hub-server.ts";
import { filesBelow, llama, NAME, weights } from "../support/hub-setup.ts";
import { caches, EIGHT, FOUR, list, namesOf, pack, remove, serve, useEmptyCaches } from "../support/model-library.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const LLAMA_BYTES = Object.values(llama).reduce((sum, content) => sum + content.byteLength, 0);

useEmptyCaches();

describe("the list", () => {
  test("is empty without a cache", async () => {
    expect(await list()).toEqual({ models: [], unclaimed: [] });
  });

  test("has a repository's safetensors, with family, sizes and packed weights", async () => {
    const server = await serve(NAME, llama);
    const path = await resolveModel(NAME);
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
    await resolveModel(NAME);
    for (const name of ["a.Q8_0.gguf", "a.Q4_0.gguf"]) await resolveModel(`${NAME}:${name}`);
    await resolveModel(`${NAME}@small:a.Q8_0.gguf`);
    const { models } = await list();
    const names = [NAME, `${NAME}:a.Q4_0.gguf`, `${NAME}:a.Q8_0.gguf`, `${NAME}@small:a.Q8_0.gguf`];
    expect(namesOf(models)).toEqual(names.toSorted());
    for (const model of models) {
      expect(await resolveModel(model.name)).toBe(model.path);
      expect(selectModels(models, model.name, () => false).models).toContain(model);
    }
  });

  test("has short names, and full ones where the short name stands for other weights", async () => {
    await serve("Qwen/Qwen3-0.6B-GGUF", { "Qwen3-0.6B-Q8_0.gguf": EIGHT });
    await resolveModel("qwen3:0.6b", { precision: "int8" });
    expect(namesOf((await list()).models)).toEqual(["qwen3:0.6b-q8_0"]);
    await serve("Qwen/Qwen3-0.6B", llama);
    await resolveModel("qwen3:0.6b");
    expect(namesOf((await list()).models)).toEqual(["qwen3:0.6b", "qwen3:0.6b-q8_0"]);
    expect(selectModels((await list()).models, "qwen3:0.6b", () => false).models).toHaveLength(2);
    expect(selectModels((await list()).models, "qwen3:0.6b-q8_0", () => false).models).toHaveLength(1);
  });

  test("has models elsewhere with packed weights, and says when they are gone", async () => {
    const folder = join(await temporaryFolder(), "own");
    await mkdir(folder);
    for (const [name, content] of Object.entries(llama)) await writeFile(join(folder, name), content);
    await pack(folder, "own");
    await (await holdModel(caches.own, join(folder, "never packed"))).release();
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
    await expect(resolveModel(NAME, { onProgress, signal: abort.signal })).rejects.toThrow("enough");
    const adapter = join(caches.hub, "models--org--lora", "snapshots", "a".repeat(40));
    await mkdir(adapter, { recursive: true });
    for (const name of ["adapter_config.json", "adapter_model.safetensors"]) await writeFile(join(adapter, name), "{}");
    for (const name of ["datasets--org--texts", "models--org--config"]) {
      const folder = join(caches.hub, name, "snapshots", "b".repeat(40));
      await mkdir(folder, { recursive: true });
      await writeFile(join(folder, "config.json"), "{}");
    }
    await writeFile(join(caches.hub, "version.txt"), "1");
    const { models } = await list();
    expect(models.toSorted((a, b) => (a.name < b.name ? -1 : 1))).toMatchObject([
      { name: `org/lora@${"a".repeat(12)}`, kind: "adapter", isComplete: true },
      { name: NAME, kind: "model", isComplete: false, bytes: 100_000 },
    ]);
    expect(await remove(NAME)).toBeGreaterThanOrEqual(100_000);
    expect(await readdir(caches.hub)).not.toContain("models--tiny-org--llama-tied");
    expect(namesOf((await list()).models)).toEqual([`org/lora@${"a".repeat(12)}`]);
  });

  test("has files of packages, whole or in parts, which are removed with their folder", async () => {
    const folder = join(caches.own, "models", "smollm2-135m");
    await mkdir(folder, { recursive: true });
    await writeFile(join(folder, "SmolLM2-135M-Instruct.Q4_1.gguf.part0"), FOUR);
    const [model] = (await list()).models;
    expect(model).toMatchObject({ name: "smollm2:135m", place: "package", isComplete: false, bytes: FOUR.byteLength });
    await pack(model?.path ?? "", "packed");
    expect(selectModels((await list()).models, "smollm2-135m", () => false).models).toHaveLength(1);
    expect(await remove("smollm2:135m")).toBeGreaterThan(FOUR.byteLength + 1000);
    expect(await filesBelow(caches.own)).toEqual([]);
  });

  test("has a file that packages and the hub share, by the name of its weights as well", async () => {
    const file = "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf";
    const folder = join(caches.own, "models", "qwen2.5-coder-1.5b");
    await mkdir(folder, { recursive: true });
    await writeFile(join(folder, file), FOUR);
    await serve("Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF", { [file]: FOUR });
    await resolveModel("qwen2.5-coder:1.5b");
    const { models } = await list();
    expect(models.map(({ name, place }) => `${name} ${place}`).toSorted()).toEqual([
      "qwen2.5-coder:1.5b hub",
      "qwen2.5-coder:1.5b package",
    ]);
    for (const name of ["qwen2.5-coder:1.5b", "qwen2.5-coder:1.5b-q4_k_m"]) {
      expect(selectModels(models, name, () => false).models).toHaveLength(2);
    }
  });

  test("does not follow damaged files: they are listed without a family", async () => {
    await serve(NAME, { "a.gguf": EIGHT });
    await resolveModel(NAME);
    expect((await list()).models).toMatchObject([{ family: undefined, isComplete: true }]);
  });

  test("counts packed weights that no model is known of, which can be removed", async () => {
    const folder = await temporaryFolder();
    await pack(folder, "a");
    await rm(join(caches.own, "models-used"), { recursive: true });
    const { models, unclaimed } = await list();
    expect(models).toEqual([]);
    expect(unclaimed).toMatchObject([{ kind: "kernels" }]);
    expect(await removeUnclaimed(unclaimed)).toBe(unclaimed[0]?.bytes);
    expect(await list()).toEqual({ models: [], unclaimed: [] });
    expect(await readdir(join(caches.own, "kernels"))).toEqual([]);
  });
});

describe("a selection", () => {
  test("suggests a similar name of what is here", async () => {
    await serve(NAME, llama);
    await downloadModel(NAME);
    const { models } = await list();
    expect(selectModels(models, "tiny-org/llama-tide", () => false)).toEqual({ models: [], near: NAME });
    expect(selectModels(models, "something", () => false)).toEqual({ models: [], near: undefined });
    expect(selectModels(models, NAME.toUpperCase(), () => false).models).toHaveLength(1);
    expect(selectModels(models, `${NAME}@${models[0]?.commit?.slice(0, 8)}`, () => false).models).toHaveLength(1);
    expect(selectModels(models, `${NAME}@other`, () => false).models).toEqual([]);
    expect(selectModels(models, models[0]?.path ?? "", () => true).models).toHaveLength(1);
  });
});
