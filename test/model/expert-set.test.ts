// Sets of low-rank experts: opened with their model, written whole, changed expert by expert.

import { copyFile, cp, mkdir, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import {
  addLowRankExpert,
  expertNameOf,
  gatherExperts,
  type Model,
  openExpertSet,
  openLowRankExpert,
  openModel,
  removeLowRankExpert,
  writeExpertSet,
} from "@readme-moe/model";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { fixture } from "../support/fixtures.ts";
import { writeModelGguf } from "../support/gguf/convert-model.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { writeTinyAdapter } from "../support/tiny-adapter.ts";
import { writeTinyReadMe } from "../support/tiny-read-me.ts";
import { tinySet } from "../support/tiny-set.ts";

let base: Model;
beforeAll(async () => {
  base = await openModel(fixture("families/llama-tied"));
});
afterAll(() => base.close());

const SET_FILE = "read-me-experts.json";
const ADAPTER = ["adapter_config.json", "adapter_model.safetensors"];

async function modelFolder(): Promise<string> {
  const folder = join(await temporaryFolder(), "model");
  await cp(fixture("families/llama-tied"), folder, { recursive: true });
  return folder;
}

/** An adapter's folder. */
async function adapter(seed = 1): Promise<string> {
  return writeTinyAdapter(join(await temporaryFolder(), "legal"), base.config, { modules: ["mlp.up_proj"], seed });
}

async function add(folder: string, name: string, path?: string, dropRouter = false): Promise<void> {
  await addLowRankExpert(folder, { name, path: path ?? (await adapter()), model: base }, { dropRouter });
}

/** Names of the experts that a model's folder has. */
async function namesIn(folder: string): Promise<readonly string[] | undefined> {
  const model = await openModel(folder);
  const names = model.lowRank?.experts.map(({ name }) => name);
  for (const { name, path } of model.lowRank?.experts ?? []) {
    await (await openLowRankExpert(path, name, model)).close();
  }
  await model.close();
  return names;
}

async function setJson(folder: string): Promise<Record<string, unknown>> {
  return JSON.parse(await readFile(join(folder, SET_FILE), "utf8")) as Record<string, unknown>;
}

async function writeJson(folder: string, json: unknown): Promise<void> {
  await writeFile(join(folder, SET_FILE), JSON.stringify(json));
}

describe("adding and removing", () => {
  test("keeps the adapters' own files, in the order of additions", async () => {
    const folder = await modelFolder();
    expect(await namesIn(folder)).toBeUndefined();
    const source = await adapter(3);
    await add(folder, "legal", source);
    await add(folder, "support");
    expect(await namesIn(folder)).toEqual(["legal", "support"]);
    for (const name of ADAPTER) {
      const [copy, original] = [join(folder, "experts", "legal", name), join(source, name)];
      expect(await readFile(copy)).toEqual(await readFile(original));
    }
    expect(await setJson(folder)).toEqual({
      version: 1,
      experts: [
        { name: "legal", folder: "experts/legal" },
        { name: "support", folder: "experts/support" },
      ],
    });
    await removeLowRankExpert(folder, "legal");
    expect(await namesIn(folder)).toEqual(["support"]);
    expect(await readdir(join(folder, "experts"))).toEqual(["support"]);
    await removeLowRankExpert(folder, "support");
    expect(await namesIn(folder)).toBeUndefined();
    expect(await readdir(folder)).toEqual(await readdir(fixture("families/llama-tied")).then((all) => all.sort()));
  });

  test("leaves the model's own fingerprint as it is", async () => {
    const [folder, cache] = [await modelFolder(), await temporaryFolder()];
    const before = await openModel(folder);
    const fingerprint = await before.fingerprint(cache);
    await add(folder, "legal");
    const after = await openModel(folder);
    expect(await after.fingerprint(cache)).toBe(fingerprint);
    await Promise.all([before.close(), after.close()]);
  });

  test("keeps fields that are not known here", async () => {
    const folder = await modelFolder();
    await writeJson(folder, { version: 1, experts: [], provenance: { by: "hand" }, note: [1] });
    await add(folder, "legal");
    expect(await setJson(folder)).toMatchObject({ provenance: { by: "hand" }, note: [1] });
    await removeLowRankExpert(folder, "legal");
    expect(await setJson(folder)).toEqual({ version: 1, experts: [], provenance: { by: "hand" }, note: [1] });
  });

  test("refuses a name that is taken, also in another case, and one that no expert can have", async () => {
    const folder = await modelFolder();
    await add(folder, "legal");
    await expectReadMeError(add(folder, "legal"), "ERR_WRITE_FAILED", folder, '"legal"', "already");
    await expectReadMeError(add(folder, "LEGAL"), "ERR_WRITE_FAILED", '"legal"', "already");
    for (const name of ["none", "../up", "a/b", ""]) await expect(add(folder, name)).rejects.toThrow(TypeError);
    await expectReadMeError(removeLowRankExpert(folder, "none"), "ERR_FILE_NOT_FOUND", '"none"', "it has legal");
    expect(await namesIn(folder)).toEqual(["legal"]);
  });

  test("refuses an adapter that cannot be taken or holds no numbers, and changes nothing", async () => {
    const folder = await modelFolder();
    await add(folder, "legal");
    const before = await readFile(join(folder, SET_FILE), "utf8");
    const dora = await writeTinyAdapter(join(await temporaryFolder(), "dora"), base.config, {
      config: { use_dora: true },
    });
    await expectReadMeError(add(folder, "dora", dora), "ERR_MODEL_UNSUPPORTED", dora, "`use_dora`");
    const bad = await writeTinyAdapter(join(await temporaryFolder(), "bad"), base.config, { size: NaN });
    await expectReadMeError(add(folder, "bad", bad), "ERR_MODEL_INVALID", bad, "lora_A.weight", "NaN at element 0");
    await expectReadMeError(add(folder, "gone", join(bad, "gone")), "ERR_FILE_NOT_FOUND", "gone");
    expect(await readFile(join(folder, SET_FILE), "utf8")).toBe(before);
    expect(await readdir(join(folder, "experts"))).toEqual(["legal"]);
  });

  test("goes on where a killed process stopped", async () => {
    const folder = await modelFolder();
    await add(folder, "legal");
    const listed = await setJson(folder);
    // Killed before the set's file was written, and while the adapter was copied.
    await add(folder, "support", await adapter(5));
    await writeJson(folder, listed);
    await mkdir(join(folder, "experts", ".support-1234.tmp"));
    await writeFile(join(folder, "experts", ".support-1234.tmp", "adapter_config.json"), "{");
    expect(await namesIn(folder)).toEqual(["legal"]);
    const wanted = await adapter(6);
    await add(folder, "support", wanted);
    expect(await namesIn(folder)).toEqual(["legal", "support"]);
    const copy = join(folder, "experts", "support", "adapter_model.safetensors");
    expect(await readFile(copy)).toEqual(await readFile(join(wanted, "adapter_model.safetensors")));
    // Killed after the set's file was written, before the adapter was removed.
    await writeJson(folder, listed);
    await add(folder, "support");
    await removeLowRankExpert(folder, "support");
    expect(await namesIn(folder)).toEqual(["legal"]);
  });

  test("removes no file that is not an adapter's", async () => {
    const folder = await modelFolder();
    await mkdir(join(folder, "experts", "legal"), { recursive: true });
    await writeFile(join(folder, "experts", "legal", "notes.txt"), "mine");
    await expectReadMeError(add(folder, "legal"), "ERR_WRITE_FAILED", "not empty");
    await add(folder, "support");
    await writeFile(join(folder, "experts", "support", "notes.txt"), "mine");
    await removeLowRankExpert(folder, "support");
    expect(await readdir(join(folder, "experts", "support"))).toEqual(["notes.txt"]);
    expect(await readdir(join(folder, "experts", "legal"))).toEqual(["notes.txt"]);
  });

  test("removes an expert whose folder is gone or lies elsewhere, and nothing there", async () => {
    const [folder, elsewhere] = [await modelFolder(), await adapter()];
    await add(folder, "legal");
    await symlink(elsewhere, join(folder, "link"));
    const { experts } = await setJson(folder);
    const odd = [
      { name: "gone", folder: "experts/gone" },
      { name: "out", folder: "link" },
    ];
    await writeJson(folder, { version: 1, experts: [...(experts as object[]), ...odd] });
    await expectReadMeError(openModel(folder), "ERR_FILE_NOT_FOUND", "experts/gone");
    await removeLowRankExpert(folder, "gone");
    await expectReadMeError(openModel(folder), "ERR_FILE_CORRUPT", '"link"', "leads out");
    await removeLowRankExpert(folder, "out");
    expect(await namesIn(folder)).toEqual(["legal"]);
    expect((await readdir(elsewhere)).toSorted()).toEqual(ADAPTER);
  });

  test("follows a plain list under random operations", async () => {
    const [folder, source, random] = [await modelFolder(), await adapter(), seededRandom(4)];
    let expected: string[] = [];
    const names = ["a", "b", "c", "d"];
    for (let round = 0; round < 40; round++) {
      const name = names[randomInteger(random, names.length)] ?? "";
      if (random() < 0.55) {
        const done = add(folder, name, source);
        if (expected.includes(name)) await expectReadMeError(done, "ERR_WRITE_FAILED");
        else expected = await done.then(() => [...expected, name]);
      } else {
        const done = removeLowRankExpert(folder, name);
        if (!expected.includes(name)) await expectReadMeError(done, "ERR_FILE_NOT_FOUND");
        else expected = await done.then(() => expected.filter((one) => one !== name));
      }
      expect((await namesIn(folder)) ?? []).toEqual(expected);
    }
  });
});

describe("a GGUF file", () => {
  test("holds no set, but a folder with one does", async () => {
    const folder = await temporaryFolder();
    const file = join(folder, "model.gguf");
    await writeModelGguf(base, file, "F32");
    await expectReadMeError(add(file, "legal"), "ERR_MODEL_UNSUPPORTED", file, "folder of its own");
    await add(folder, "legal");
    expect(await namesIn(folder)).toEqual(["legal"]);
    const alone = await openModel(file);
    expect(alone.lowRank).toBeUndefined();
    await alone.close();
  });

  test("has a set with a router beside it", async () => {
    const [folder, set] = [await temporaryFolder(), join(await temporaryFolder(), "set")];
    await writeModelGguf(base, join(folder, "model.gguf"), "F32");
    await writeExpertSet(set, await tinySet(base.config, { legal: {}, support: { seed: 2 } }, 9));
    await cp(set, folder, { recursive: true });
    const model = await openModel(folder);
    expect(model.lowRank?.router?.config.numExperts).toBe(3);
    await model.close();
  });
});

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
    const { stderr } = { stderr: await openModel(set).catch((error: unknown) => (error as Error).message) };
    expect(stderr).toContain("need the dense model that they change");
  });

  test("is changed only when its router may go", async () => {
    const set = join(await temporaryFolder(), "set");
    await writeExpertSet(set, await tinySet(base.config, { legal: {}, support: {} }, 3));
    await expectReadMeError(add(set, "more"), "ERR_WRITE_FAILED", "router", "legal, support");
    await expectReadMeError(removeLowRankExpert(set, "legal"), "ERR_WRITE_FAILED", "router");
    await add(set, "more", undefined, true);
    expect((await readdir(set)).toSorted()).toEqual(["experts", SET_FILE]);
    const opened = await openExpertSet(set, base.config);
    expect(opened?.experts.map(({ name }) => name)).toEqual(["legal", "support", "more"]);
    expect(opened?.router).toBeUndefined();
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

  async function failed(): Promise<Uint8Array> {
    throw new Error("no more numbers");
  }
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
    ["has a router without a file", { version: 1, experts: [legal], router: section() }, "router.safetensors"],
    ["has a router of nothing", { version: 1, experts: [], router: section() }, "no experts"],
    ["has a wrong router", { version: 1, experts: [legal], router: { embedding_size: 1 } }, "`router.inner_size`"],
  ];
  function section(): object {
    return { embedding_size: 16, inner_size: 16, num_heads: 2, num_layers: 1 };
  }

  test.each(cases.map(([what, json, ...parts]) => ({ what, json, parts })))("$what", async ({ json, parts }) => {
    const folder = await modelFolder();
    await add(folder, "legal");
    await writeJson(folder, json);
    const error = await openModel(folder).catch((reason: unknown) => reason);
    if (!(error instanceof ReadMeError)) throw new Error("Expected a ReadMeError", { cause: error });
    for (const part of [folder, ...parts]) expect(error.message).toContain(part);
  });

  test("is cut or no JSON", async () => {
    const folder = await modelFolder();
    await add(folder, "legal");
    await writeFile(join(folder, SET_FILE), '{"version": 1,');
    await expectReadMeError(openModel(folder), "ERR_FILE_CORRUPT", SET_FILE);
    await expectReadMeError(removeLowRankExpert(folder, "legal"), "ERR_FILE_CORRUPT", SET_FILE);
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
    const [folder, set, source] = [await modelFolder(), join(await temporaryFolder(), "set"), await adapter()];
    await add(folder, "own");
    await writeExpertSet(set, await tinySet(base.config, { legal: {}, support: {} }, 3));
    const model = await openModel(folder);
    const all = await gatherExperts(model, { single: source, unused: set });
    expect(all.experts.map(({ name }) => name)).toEqual(["legal", "support", "own", "single"]);
    expect(all.router?.config.numExperts).toBe(3);
    expect(all.path).toBe(model.path);
    await all.close();
    const own = await gatherExperts(model);
    expect(own.experts).toEqual(model.lowRank?.experts);
    await own.close();
    expect((await gatherExperts(base)).experts).toEqual([]);
    await model.close();
  });

  test("have different names, and one router at most", async () => {
    const [folder, set, source] = [await modelFolder(), join(await temporaryFolder(), "set"), await adapter()];
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
  const [cache, source, other] = [await temporaryFolder(), await adapter(), await adapter(2)];
  const copy = await temporaryFolder();
  for (const name of ADAPTER) await copyFile(join(source, name), join(copy, name));
  const fingerprints = [];
  for (const path of [source, copy, other]) {
    const expert = await openLowRankExpert(path, "legal", base);
    fingerprints.push(await expert.fingerprint(cache));
    await expert.close();
  }
  expect(fingerprints[0]).toBe(fingerprints[1]);
  expect(fingerprints[0]).not.toBe(fingerprints[2]);
  await rm(copy, { recursive: true });
});
