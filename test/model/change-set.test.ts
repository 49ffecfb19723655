// Sets of loras, changed expert by expert.

import { spawn } from "node:child_process";
import { mkdir, readdir, readFile, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { addExpertSet, openExpertSet, openModel, OWN_MARK, removeLora, writeExpertSet } from "@readme-moe/model";
import { describe, expect, test } from "vitest";
import { fixture } from "../support/fixtures.ts";
import { writeModelGguf } from "../support/gguf/convert-model.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { add, ADAPTER_FILES, base, newAdapter } from "../support/set-base.ts";
import { modelFolder, namesIn, SET_FILE, setJson, writeJson } from "../support/set-folders.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { writeTinyAdapter } from "../support/tiny-adapter.ts";
import { tinySet } from "../support/tiny-set.ts";

describe("adding and removing", () => {
  test("keeps the adapters' own files, in the order of additions", async () => {
    const folder = await modelFolder();
    expect(await namesIn(folder)).toBeUndefined();
    const source = await newAdapter(3);
    await add(folder, "legal", source);
    await add(folder, "support");
    expect(await namesIn(folder)).toEqual(["legal", "support"]);
    for (const name of ADAPTER_FILES) {
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
    await removeLora(folder, "legal");
    expect(await namesIn(folder)).toEqual(["support"]);
    expect(await readdir(join(folder, "experts"))).toEqual(["support"]);
    await removeLora(folder, "support");
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
    await removeLora(folder, "legal");
    expect(await setJson(folder)).toEqual({ version: 1, experts: [], provenance: { by: "hand" }, note: [1] });
  });

  test("refuses a name that is taken, also in another case, and one that no expert can have", async () => {
    const folder = await modelFolder();
    await add(folder, "legal");
    await expectReadMeError(add(folder, "legal"), "ERR_WRITE_FAILED", folder, '"legal"', "already");
    await expectReadMeError(add(folder, "LEGAL"), "ERR_WRITE_FAILED", '"legal"', "already");
    for (const name of ["none", "../up", "a/b", ""]) await expect(add(folder, name)).rejects.toThrow(TypeError);
    await expectReadMeError(removeLora(folder, "none"), "ERR_FILE_NOT_FOUND", '"none"', "it has legal");
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
    const head = { modules: ["lm_head"], size: Infinity };
    const badHead = await writeTinyAdapter(join(await temporaryFolder(), "head"), base.config, head);
    await expectReadMeError(add(folder, "head", badHead), "ERR_MODEL_INVALID", "lm_head.lora_A.weight", "Infinity");
    await expectReadMeError(add(folder, "gone", join(bad, "gone")), "ERR_FILE_NOT_FOUND", "gone");
    expect(await readFile(join(folder, SET_FILE), "utf8")).toBe(before);
    expect(await readdir(join(folder, "experts"))).toEqual(["legal"]);
  });

  test("goes on where a killed process stopped", async () => {
    const folder = await modelFolder();
    await add(folder, "legal");
    const listed = await setJson(folder);
    // Killed before the set's file was written, and while the adapter was copied.
    await add(folder, "support", await newAdapter(5));
    await writeJson(folder, listed);
    await mkdir(join(folder, "experts", ".support-1234.tmp"));
    await writeFile(join(folder, "experts", ".support-1234.tmp", "adapter_config.json"), "{");
    expect(await namesIn(folder)).toEqual(["legal"]);
    const wanted = await newAdapter(6);
    await add(folder, "support", wanted);
    expect(await namesIn(folder)).toEqual(["legal", "support"]);
    const copy = join(folder, "experts", "support", "adapter_model.safetensors");
    expect(await readFile(copy)).toEqual(await readFile(join(wanted, "adapter_model.safetensors")));
    // Killed after the set's file was written, before the adapter was removed.
    await writeJson(folder, listed);
    await add(folder, "support");
    await removeLora(folder, "support");
    expect(await namesIn(folder)).toEqual(["legal"]);
  });

  test("removes no file that is not an adapter's", async () => {
    const folder = await modelFolder();
    await mkdir(join(folder, "experts", "legal"), { recursive: true });
    await writeFile(join(folder, "experts", "legal", "notes.txt"), "mine");
    await expectReadMeError(add(folder, "legal"), "ERR_WRITE_FAILED", "not empty");
    await add(folder, "support");
    await writeFile(join(folder, "experts", "support", "notes.txt"), "mine");
    await removeLora(folder, "support");
    expect(await readdir(join(folder, "experts", "support"))).toEqual(["notes.txt"]);
    expect(await readdir(join(folder, "experts", "legal"))).toEqual(["notes.txt"]);
  });

  test("removes an expert whose folder is gone or lies elsewhere, and nothing there", async () => {
    const [folder, elsewhere] = [await modelFolder(), await newAdapter()];
    await add(folder, "legal");
    await symlink(elsewhere, join(folder, "link"));
    const { experts } = await setJson(folder);
    const odd = [
      { name: "gone", folder: "experts/gone" },
      { name: "out", folder: "link" },
    ];
    await writeJson(folder, { version: 1, experts: [...(experts as object[]), ...odd] });
    await expectReadMeError(openModel(folder), "ERR_FILE_NOT_FOUND", "experts/gone");
    await removeLora(folder, "gone");
    await expectReadMeError(openModel(folder), "ERR_FILE_CORRUPT", '"link"', "leads out");
    await removeLora(folder, "out");
    expect(await namesIn(folder)).toEqual(["legal"]);
    expect((await readdir(elsewhere)).toSorted()).toEqual(ADAPTER_FILES);
  });

  test("keeps a folder that another expert has as well", async () => {
    const folder = await modelFolder();
    await add(folder, "legal");
    const listed = { folder: "experts/legal" };
    await writeJson(folder, {
      version: 1,
      experts: [
        { name: "legal", ...listed },
        { name: "law", ...listed },
      ],
    });
    await removeLora(folder, "legal");
    expect(await namesIn(folder)).toEqual(["law"]);
    await removeLora(folder, "law");
    expect(await readdir(folder)).not.toContain("experts");
  });

  test("follows a plain list under random operations", async () => {
    const [folder, source, random] = [await modelFolder(), await newAdapter(), seededRandom(4)];
    let expected: string[] = [];
    const names = ["a", "b", "c", "d"];
    for (let round = 0; round < 40; round++) {
      const name = names[randomInteger(random, names.length)] ?? "";
      if (random() < 0.55) {
        const done = add(folder, name, source);
        if (expected.includes(name)) await expectReadMeError(done, "ERR_WRITE_FAILED");
        else expected = await done.then(() => [...expected, name]);
      } else {
        const done = removeLora(folder, name);
        if (!expected.includes(name)) await expectReadMeError(done, "ERR_FILE_NOT_FOUND");
        else expected = await done.then(() => expected.filter((one) => one !== name));
      }
      expect((await namesIn(folder)) ?? []).toEqual(expected);
    }
  });
});

test("a set is changed only when its router may go", async () => {
  const set = join(await temporaryFolder(), "set");
  await writeExpertSet(set, await tinySet(base.config, { legal: {}, support: {} }, 3));
  await expectReadMeError(add(set, "more"), "ERR_WRITE_FAILED", "router", "legal, support");
  await expectReadMeError(removeLora(set, "legal"), "ERR_WRITE_FAILED", "router");
  await add(set, "more", undefined, true);
  expect((await readdir(set)).toSorted()).toEqual(["experts", SET_FILE]);
  const opened = await openExpertSet(set, base.config);
  expect(opened?.experts.map(({ name }) => name)).toEqual(["legal", "support", "more"]);
  expect(opened?.router).toBeUndefined();
});

describe("several changes at once", () => {
  const LOCK = ".read-me-experts.lock";

  test("are all made, one after the other", async () => {
    const [folder, source] = [await modelFolder(), await newAdapter()];
    const names = Array.from({ length: 12 }, (_, index) => `e${index}`);
    await Promise.all(names.map((name) => add(folder, name, source)));
    expect((await namesIn(folder))?.toSorted()).toEqual(names.toSorted());
    const removed = names.slice(0, 6).map((name) => removeLora(folder, name));
    await Promise.all([...removed, add(folder, "last", source)]);
    expect((await namesIn(folder))?.toSorted()).toEqual([...names.slice(6), "last"].toSorted());
    expect(await readdir(folder)).not.toContain(LOCK);
  });

  test("give one name to one of them", async () => {
    const folder = await modelFolder();
    const sources = await Promise.all([1, 2, 3, 4].map((seed) => newAdapter(seed)));
    const outcomes = await Promise.allSettled(sources.map((source) => add(folder, "legal", source)));
    const winners = sources.filter((_, index) => outcomes[index]?.status === "fulfilled");
    expect(winners).toHaveLength(1);
    const copy = await readFile(join(folder, "experts", "legal", "adapter_model.safetensors"));
    expect(copy).toEqual(await readFile(join(winners[0] ?? "", "adapter_model.safetensors")));
    expect(await namesIn(folder)).toEqual(["legal"]);
  });

  test("wait for a process that runs, and not for one that was killed", async () => {
    const folder = await modelFolder();
    const child = spawn(process.execPath, ["-e", "process.stdin.resume()"], { stdio: ["pipe", "ignore", "ignore"] });
    await writeFile(join(folder, LOCK), OWN_MARK.replace(/\d+$/, `${child.pid}-00000000`));
    const adding = add(folder, "legal").then(() => "added");
    // The other takes longer than the change would.
    expect(await Promise.race([adding, modelFolder().then(() => "waiting")])).toBe("waiting");
    child.kill("SIGKILL");
    expect(await adding).toBe("added");
    expect(await namesIn(folder)).toEqual(["legal"]);
    expect(await readdir(folder)).not.toContain(LOCK);
  });
});

describe("a set added to a folder", () => {
  test("brings its adapters, router and provenance, or changes nothing", async () => {
    const [set, folder, cache] = [join(await temporaryFolder(), "set"), await modelFolder(), await temporaryFolder()];
    const provenance = { data: "texts" };
    await writeExpertSet(set, { ...(await tinySet(base.config, { legal: {}, support: { seed: 4 } }, 3)), provenance });
    await addExpertSet(folder, { path: set, model: base });
    expect(await setJson(folder)).toEqual(await setJson(set));
    const [model, opened] = [await openModel(folder), await openExpertSet(set, base.config)];
    expect(await model.loraSet?.router?.head.weight.store.readBytes("proj_out.weight")).toEqual(
      await opened?.router?.head.weight.store.readBytes("proj_out.weight"),
    );
    expect(await model.loraSet?.fingerprint(cache)).toBe(await opened?.fingerprint(cache));
    await Promise.all([model.close(), opened?.close()]);
    const again = addExpertSet(folder, { path: set, model: base });
    await expectReadMeError(again, "ERR_WRITE_FAILED", "router", "--drop-router");
    const twice = addExpertSet(folder, { path: set, model: base }, { dropRouter: true });
    await expectReadMeError(twice, "ERR_WRITE_FAILED", '"legal" already');
    expect(await setJson(folder)).toEqual(await setJson(set));
    expect((await readdir(join(folder, "experts"))).toSorted()).toEqual(["legal", "support"]);
  });

  test("is taken whole or not at all", async () => {
    const [set, folder] = [join(await temporaryFolder(), "set"), await modelFolder()];
    const bad = { legal: {}, support: { size: NaN } };
    await writeExpertSet(set, await tinySet(base.config, bad, 3));
    const before = (await readdir(folder)).toSorted();
    await expectReadMeError(addExpertSet(folder, { path: set, model: base }), "ERR_MODEL_INVALID", "support", "NaN");
    expect((await readdir(folder)).toSorted()).toEqual(before);
    const none = addExpertSet(folder, { path: await newAdapter(), model: base });
    await expectReadMeError(none, "ERR_FILE_NOT_FOUND", SET_FILE);
  });
});

test("a GGUF file holds no set, but a folder with one does", async () => {
  const folder = await temporaryFolder();
  const file = join(folder, "model.gguf");
  await writeModelGguf(base, file, "F32");
  await expectReadMeError(add(file, "legal"), "ERR_MODEL_UNSUPPORTED", file, "folder of its own");
  await add(folder, "legal");
  expect(await namesIn(folder)).toEqual(["legal"]);
  const alone = await openModel(file);
  expect(alone.loraSet).toBeUndefined();
  await alone.close();
});
