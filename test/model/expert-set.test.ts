// Sets of loras: written whole, opened with their model, gathered from several folders.

import { copyFile, cp, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import {
  expertNameOf,
  gatherExperts,
  openExpertSet,
  openLora,
  openModel,
  removeLora,
  writeExpertSet,
} from "@readme-moe/model";
import { describe, expect, test } from "vitest";
import { parseSetFile } from "../../packages/model/src/lora/lora-set.ts";
import { writeModelGguf } from "../support/gguf/convert-model.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { add, ADAPTER_FILES, base, newAdapter } from "../support/set-base.ts";
import { modelFolder, namesIn, SET_FILE, setJson, writeJson } from "../support/set-folders.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { writeTinyReadMe } from "../support/tiny-read-me.ts";
import { tinySet } from "../support/tiny-set.ts";

const SECTION = { embedding_size: 16, inner_size: 16, num_heads: 2, num_layers: 1 };

const listing = (length: number) => () =>
  parseSetFile("set.json", {
    version: 1,
    experts: Array.from({ length }, (_, i) => ({ name: `e${i}`, folder: "x" })),
  });

const failed = (): Promise<Uint8Array> => Promise.reject(new Error("no more numbers"));

describe("a written set", () => {
  test("opens with its experts and its router, beside a model or alone", async () => {
    const [set, cache] = [join(await temporaryFolder(), "set"), await temporaryFolder()];
    const content = await tinySet(base.config, { legal: { seed: 1 }, support: { modules: ["lm_head"], seed: 2 } }, 3);
    await writeExpertSet(set, { ...content, provenance: { data: "texts" }, documents: { "report/a.md": "# A" } });
    const opened = await openExpertSet(set, base.config);
    expect(opened).toMatchObject({
      path: set,
      experts: [
        { name: "legal", path: join(set, "experts", "legal") },
        { name: "support", path: join(set, "experts", "support") },
      ],
      router: { config: { numExperts: 3, vocabSize: base.config.vocabSize } },
    });
    expect(await opened?.fingerprint(cache)).toMatch(/^[0-9a-f]{64}$/);
    await opened?.close();
    expect(await readFile(join(set, "report", "a.md"), "utf8")).toBe("# A");
    const folder = await modelFolder();
    await cp(set, folder, { recursive: true });
    expect(await namesIn(folder)).toEqual(["legal", "support"]);
    await expectReadMeError(openModel(set), "ERR_FILE_NOT_FOUND", "need the dense model that they change");
  });

  test("is written nowhere when a name is wrong, or the folder is taken", async () => {
    const parent = await temporaryFolder();
    const content = await tinySet(base.config, { legal: {} });
    const [expert] = content.experts;
    if (expert === undefined) throw new Error("Expected an expert");
    for (const name of ["../legal", "none", "a/b"]) {
      const wrong = writeExpertSet(join(parent, "set"), { experts: [{ ...expert, name }] });
      await expectReadMeError(wrong, "ERR_MODEL_INVALID", JSON.stringify(name));
    }
    const twice = writeExpertSet(join(parent, "set"), { experts: [expert, expert] });
    await expectReadMeError(twice, "ERR_MODEL_INVALID", '"legal" twice');
    const failing = { ...expert, tensors: [{ name: "a", type: "F32" as const, shape: [1], bytes: failed }] };
    await expectReadMeError(writeExpertSet(join(parent, "set"), { experts: [failing] }), "ERR_WRITE_FAILED");
    expect(await readdir(parent)).toEqual([]);
    await writeFile(join(parent, "file"), "");
    await expectReadMeError(writeExpertSet(parent, content), "ERR_WRITE_FAILED", "not empty");
  });
});

test("a set with a router lies beside a GGUF file", async () => {
  const [folder, set] = [await temporaryFolder(), join(await temporaryFolder(), "set")];
  await writeModelGguf(base, join(folder, "model.gguf"), "F32");
  await writeExpertSet(set, await tinySet(base.config, { legal: {}, support: { seed: 2 } }, 9));
  await cp(set, folder, { recursive: true });
  const model = await openModel(folder);
  expect(model.loraSet?.router?.config.numExperts).toBe(3);
  await model.close();
});

describe("a set's file is refused that", () => {
  const legal = { name: "legal", folder: "experts/legal" };
  const cases: readonly (readonly [what: string, json: unknown, ...parts: readonly string[]])[] = [
    ["is no object", [], "the file", "object"],
    ["has another version", { version: 2, experts: [] }, "`version`", "supported is 1"],
    ["has no version", { experts: [] }, "`version`"],
    ["has no list", { version: 1 }, "`experts`"],
    ["has another kind of list", { version: 1, experts: { legal } }, "`experts`"],
    ["has other entries", { version: 1, experts: ["legal"] }, "`experts[0]`"],
    ["has an entry without a folder", { version: 1, experts: [{ name: "legal" }] }, "`experts[0].folder`"],
    ["has a wrong name", { version: 1, experts: [{ ...legal, name: "a b" }] }, '"a b"', "64 letters"],
    ["has a reserved name", { version: 1, experts: [{ ...legal, name: "none" }] }, '"none"', "other than"],
    ["has a name twice", { version: 1, experts: [legal, legal] }, '"legal" twice'],
    ["leads upwards", { version: 1, experts: [{ ...legal, folder: "../other" }] }, '"../other"', "`..` part"],
    ["has an absolute path", { version: 1, experts: [{ ...legal, folder: "/etc" }] }, '"/etc"', "absolute"],
    ["has a path of Windows", { version: 1, experts: [{ ...legal, folder: "C:\\x" }] }, "backslash"],
    ["names itself", { version: 1, experts: [{ ...legal, folder: "." }] }, "`.` or `..` part"],
    ["names a folder that is not there", { version: 1, experts: [{ ...legal, folder: "x" }] }, '"x"', "no such file"],
    ["has a router without a file", { version: 1, experts: [legal], router: SECTION }, "router.safetensors"],
    ["has a router of nothing", { version: 1, experts: [], router: SECTION }, "no experts"],
    ["has a wrong router", { version: 1, experts: [legal], router: { embedding_size: 1 } }, "`router.inner_size`"],
  ];
  test.each(cases.map(([what, json, ...parts]) => ({ what, json, parts })))("$what", async ({ json, parts }) => {
    const folder = await modelFolder();
    await add(folder, "legal");
    await writeJson(folder, json);
    const error = await openModel(folder).catch((reason: unknown) => reason);
    if (!(error instanceof ReadMeError)) throw new Error("Expected a ReadMeError", { cause: error });
    for (const part of [folder, ...parts]) expect(error.message).toContain(part);
  });

  test("lists more experts than a token's route can name", () => {
    expect(listing(65_535)().entries.length).toBe(65_535);
    expect(listing(65_536)).toThrow(/65536 experts are more than 65535/);
  });

  test("is cut or no JSON", async () => {
    const folder = await modelFolder();
    await add(folder, "legal");
    await writeFile(join(folder, SET_FILE), '{"version": 1,');
    await expectReadMeError(openModel(folder), "ERR_FILE_CORRUPT", SET_FILE);
    await expectReadMeError(removeLora(folder, "legal"), "ERR_FILE_CORRUPT", SET_FILE);
  });

  test("has a router with another number of outputs", async () => {
    const set = join(await temporaryFolder(), "set");
    await writeExpertSet(set, await tinySet(base.config, { legal: {}, support: {} }, 3));
    const json = await setJson(set);
    await writeJson(set, { ...json, experts: (json["experts"] as object[]).slice(0, 1) });
    const opening = openExpertSet(set, base.config);
    await expectReadMeError(
      opening,
      "ERR_MODEL_INVALID",
      "router.safetensors",
      "proj_out.weight",
      "[3, 16]",
      "[2, 16]",
    );
  });

  test("is in the folder of a model that has experts already", async () => {
    const folder = join(await temporaryFolder(), "read-me");
    await writeTinyReadMe(folder);
    await writeJson(folder, { version: 1, experts: [] });
    await expectReadMeError(openModel(folder), "ERR_MODEL_UNSUPPORTED", folder, SET_FILE, "dense");
  });
});

describe("gathered experts", () => {
  test("are the model's own and further ones, those of the router first", async () => {
    const [folder, set, source] = [await modelFolder(), join(await temporaryFolder(), "set"), await newAdapter()];
    await add(folder, "own");
    await writeExpertSet(set, await tinySet(base.config, { legal: {}, support: {} }, 3));
    const model = await openModel(folder);
    const all = await gatherExperts(model, { single: source, unused: set });
    expect(all.experts.map(({ name }) => name)).toEqual(["legal", "support", "own", "single"]);
    expect(all.router?.config.numExperts).toBe(3);
    expect(all.path).toBe(model.path);
    await all.close();
    const own = await gatherExperts(model);
    expect(own.experts).toEqual(model.loraSet?.experts);
    await own.close();
    expect((await gatherExperts(base)).experts).toEqual([]);
    await model.close();
  });

  test("have different names, and one router at most", async () => {
    const [folder, set, source] = [await modelFolder(), join(await temporaryFolder(), "set"), await newAdapter()];
    await add(folder, "legal");
    await writeExpertSet(set, await tinySet(base.config, { legal: {} }, 3));
    const model = await openModel(folder);
    await expect(gatherExperts(model, { legal: source })).rejects.toThrow(/"legal" twice/);
    await expect(gatherExperts(model, { unused: set })).rejects.toThrow(/"legal" twice/);
    await expect(gatherExperts(base, { none: source })).rejects.toThrow(/other than `none`/);
    const copy = join(await temporaryFolder(), "copy");
    await cp(set, copy, { recursive: true });
    await expectReadMeError(gatherExperts(base, { a: set, b: copy }), "ERR_MODEL_UNSUPPORTED", "two", "router");
    await model.close();
  });

  test("take the folder's name where none is given", () => {
    expect(expertNameOf("some/where/legal-1.0/")).toBe("legal-1.0");
    expect(() => expertNameOf("a b")).toThrow(TypeError);
    expect(() => expertNameOf("/x/none")).toThrow(TypeError);
  });
});

test("an adapter's fingerprint is that of its contents", async () => {
  const [cache, source, other] = [await temporaryFolder(), await newAdapter(), await newAdapter(2)];
  const copy = await temporaryFolder();
  for (const name of ADAPTER_FILES) await copyFile(join(source, name), join(copy, name));
  const fingerprints = [];
  for (const path of [source, copy, other]) {
    const expert = await openLora(path, "legal", base);
    fingerprints.push(await expert.fingerprint(cache));
    await expert.close();
  }
  expect(fingerprints[0]).toBe(fingerprints[1]);
  expect(fingerprints[0]).not.toBe(fingerprints[2]);
});
