// Notes of the cache folder on models: packed files by model, last uses, and marks of processes that have one open.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdir, readdir, readFile, stat, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import {
  forgetModels,
  hasEnded,
  holdModel,
  isOnThisMachine,
  noteEntry,
  OWN_MARK,
  ownerOf,
  readModelIndex,
  reserveRemoval,
} from "../../packages/model/src/cache/model-index.ts";
import * as fc from "../support/fast-check.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { moduleUrl, NODE_FLAGS } from "../support/run-cli.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const KEY = "0123456789abcdef";
const LONG_AGO = new Date(Date.now() - 7_200_000);

/** Lists the marks of the only model in the cache. */
async function marksIn(cache: string): Promise<readonly string[]> {
  const [folder = ""] = await readdir(join(cache, "models-used"));
  return (await readdir(join(cache, "models-used", folder))).filter((name) => /^(?:open|removing)-/.test(name));
}

/** Writes a mark of another process. */
async function markOf(cache: string, mark: string, at = new Date()): Promise<void> {
  const [folder = ""] = await readdir(join(cache, "models-used"));
  const path = join(cache, "models-used", folder, mark);
  await writeFile(path, "");
  await utimes(path, at, at);
}

describe("the index", () => {
  test("knows each model's entries and the time of its last use", async () => {
    const cache = await temporaryFolder();
    await noteEntry(cache, "/models/a", { kind: "kernels", key: KEY });
    await noteEntry(cache, "/models/a", { kind: "experts", key: "ff" });
    await noteEntry(cache, "/models/a/../a", { kind: "kernels", key: KEY });
    await noteEntry(cache, "/models/b", { kind: "kernels", key: KEY });
    const models = (await readModelIndex(cache)).toSorted((a, b) => (a.path < b.path ? -1 : 1));
    expect(models).toMatchObject([
      { path: "/models/a", users: [] },
      { path: "/models/b", entries: [{ kind: "kernels", key: KEY }], users: [] },
    ]);
    expect(models[0]?.entries.toSorted((a, b) => (a.kind < b.kind ? -1 : 1))).toEqual([
      { kind: "experts", key: "ff" },
      { kind: "kernels", key: KEY },
    ]);
    for (const { lastUsedMs } of models) expect(Math.abs(lastUsedMs - Date.now())).toBeLessThan(60_000);
    await forgetModels(cache, ["/models/a", "/models/never"]);
    expect((await readModelIndex(cache)).map(({ path }) => path)).toEqual(["/models/b"]);
  });

  test("is empty without a cache, and leaves out what is no note", async () => {
    expect(await readModelIndex(join(await temporaryFolder(), "none"))).toEqual([]);
    const cache = await temporaryFolder();
    await noteEntry(cache, "/a", { kind: "kernels", key: KEY });
    const [folder = ""] = await readdir(join(cache, "models-used"));
    for (const name of ["packed-kernels-../../x", "packed-kernels", "packed-x-y-z", "open-me", "x"]) {
      await writeFile(join(cache, "models-used", folder, name.replaceAll("/", "_")), "");
    }
    for (const [name, content] of [
      ["no-json", "{"],
      ["no-path", "{}"],
      ["a-list", "[]"],
    ]) {
      await mkdir(join(cache, "models-used", name ?? ""));
      await writeFile(join(cache, "models-used", name ?? "", "model.json"), content ?? "");
    }
    expect(await readModelIndex(cache)).toMatchObject([
      { path: "/a", entries: [{ kind: "kernels", key: KEY }], users: [] },
    ]);
  });

  test("never fails a caller whose cache cannot be written", async () => {
    const file = join(await temporaryFolder(), "file");
    await writeFile(file, "");
    await noteEntry(file, "/a", { kind: "kernels", key: KEY });
    const hold = await holdModel(file, "/a");
    await hold.release();
    await (await reserveRemoval(file, ["/a"])).release();
    expect(await readFile(file, "utf8")).toBe("");
  });

  test("agrees with a plain model of itself after any operations", async () => {
    const operation = fc.record({
      kind: fc.constantFrom("note" as const, "hold" as const, "release" as const, "remove" as const),
      model: fc.constantFrom("/a", "/b"),
      key: fc.constantFrom("01", "02"),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(operation, { maxLength: 12 }), async (operations) => {
        const cache = await newCache();
        const entries = new Map<string, Set<string>>();
        const holds = new Map<string, { release(): Promise<void> }[]>();
        for (const { kind, model, key } of operations) {
          const held = holds.get(model) ?? [];
          holds.set(model, held);
          if (kind === "note") {
            await noteEntry(cache, model, { kind: "kernels", key });
            entries.set(model, (entries.get(model) ?? new Set()).add(key));
          } else if (kind === "hold") {
            held.push(await holdModel(cache, model));
            entries.set(model, entries.get(model) ?? new Set());
          } else if (kind === "release") await held.pop()?.release();
          else if (held.length > 0) await expectReadMeError(reserveRemoval(cache, [model]), "ERR_MODEL_IN_USE", model);
          else {
            const reservation = await reserveRemoval(cache, [model]);
            await forgetModels(cache, [model]);
            await reservation.release();
            entries.delete(model);
          }
          const found = await readModelIndex(cache);
          expect(found.map(({ path }) => path).toSorted()).toEqual([...entries.keys()].toSorted());
          for (const { path, entries: own, users } of found) {
            expect(own.map((entry) => entry.key).toSorted()).toEqual([...(entries.get(path) ?? [])].toSorted());
            expect(users).toEqual(holds.get(path)?.length ? [{ pid: process.pid, isOnThisMachine: true }] : []);
          }
        }
        for (const held of holds.values()) for (const hold of held) await hold.release();
      }),
      { numRuns: 25 },
    );
  });
});

async function newCache(): Promise<string> {
  return join(await temporaryFolder(), "cache");
}

describe("a model that a process has open", () => {
  test("is not removed until the last mark is gone", async () => {
    const cache = await temporaryFolder();
    const [first, second] = [await holdModel(cache, "/a"), await holdModel(cache, "/a")];
    await first.release();
    await first.release();
    await expectReadMeError(
      reserveRemoval(cache, ["/b", "/a"]),
      "ERR_MODEL_IN_USE",
      "/a",
      `process ${process.pid} has`,
    );
    // A refused removal leaves nothing that could stop others.
    await (await holdModel(cache, "/b")).release();
    await second.release();
    await (await reserveRemoval(cache, ["/a", "/b"])).release();
    expect((await readModelIndex(cache)).flatMap(({ users }) => users)).toEqual([]);
  });

  test("cannot be opened while it is removed", async () => {
    const cache = await temporaryFolder();
    const reservation = await reserveRemoval(cache, ["/a"]);
    await expectReadMeError(holdModel(cache, "/a"), "ERR_FILE_NOT_FOUND", "/a", "is removing it");
    await reservation.release();
    await (await holdModel(cache, "/a")).release();
    expect(await marksIn(cache)).toEqual([]);
  });

  test("is free again when its process was killed", async () => {
    const cache = await temporaryFolder();
    const script = `
      import { holdModel } from ${JSON.stringify(moduleUrl("model/src/cache/model-index.ts"))};
      await holdModel(${JSON.stringify(cache)}, "/a");
      console.log("held");
      setInterval(() => undefined, 1000);`;
    const flags = [...NODE_FLAGS, "--input-type=module", "--eval", script];
    const child = spawn(process.execPath, flags, { stdio: ["ignore", "pipe", "inherit"] });
    onTestFinished(() => void child.kill("SIGKILL"));
    await once(child.stdout, "data");
    expect(await readModelIndex(cache)).toMatchObject([{ users: [{ pid: child.pid, isOnThisMachine: true }] }]);
    await expectReadMeError(reserveRemoval(cache, ["/a"]), "ERR_MODEL_IN_USE", `process ${child.pid} has it open`);
    const ended = once(child, "exit");
    child.kill("SIGKILL");
    await ended;
    await (await reserveRemoval(cache, ["/a"])).release();
    expect(await marksIn(cache)).toEqual([]);
  });

  test("counts as open on another machine for an hour after the last sign of life", async () => {
    const cache = await temporaryFolder();
    await (await holdModel(cache, "/a")).release();
    await markOf(cache, "open-0badcafe-1-12345678");
    await expectReadMeError(reserveRemoval(cache, ["/a"]), "ERR_MODEL_IN_USE", "process 1 of another machine");
    await markOf(cache, "open-0badcafe-1-12345678", LONG_AGO);
    await (await reserveRemoval(cache, ["/a"])).release();
    expect(await marksIn(cache)).toEqual([]);
  });

  test("is free when a running process has the number of one that stopped touching its mark", async () => {
    const cache = await temporaryFolder();
    await (await holdModel(cache, "/a")).release();
    await markOf(cache, `open-${OWN_MARK.replace(/-.*/, "")}-${process.ppid}-12345678`, LONG_AGO);
    expect((await readModelIndex(cache)).flatMap(({ users }) => users)).toEqual([]);
  });
});

describe("a mark", () => {
  test("names its machine and process, and nothing else is one", () => {
    const own = ownerOf(`${OWN_MARK}-01234567`);
    expect(own).toMatchObject({ pid: process.pid });
    expect(own && isOnThisMachine(own)).toBe(true);
    for (const text of ["", OWN_MARK, `${OWN_MARK}-0123456`, `x${OWN_MARK}-01234567`, "0badcafe-x-01234567"]) {
      expect(ownerOf(text)).toBeUndefined();
    }
  });

  test("of this process's number is an earlier process's when it is older than this process", () => {
    const own = ownerOf(`${OWN_MARK}-01234567`);
    if (own === undefined) throw new Error("expected an owner");
    expect(hasEnded(own, Date.now())).toBe(false);
    expect(hasEnded(own, Date.now() - process.uptime() * 1000 - 60_000)).toBe(true);
  });
});

test.skipIf(process.getuid?.() === 0)("a cache of another user is left alone (skipped for root)", async () => {
  const cache = await temporaryFolder();
  await chmod(cache, 0o555);
  await noteEntry(cache, "/a", { kind: "kernels", key: KEY });
  await (await holdModel(cache, "/a")).release();
  await chmod(cache, 0o755);
  expect((await stat(cache)).isDirectory()).toBe(true);
  expect(await readdir(cache)).toEqual([]);
});
