// Renaming a file that another program has open for a moment.

import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { renamePatiently, type RenameSystem } from "../../packages/model/src/files/write-file.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

interface Watched extends RenameSystem {
  readonly waitsMs: number[];
  readonly names: string[][];
}

/** A system whose first renames fail with some errors. */
function failing(platform: string, codes: readonly string[]): Watched {
  const waitsMs: number[] = [];
  const names: string[][] = [];
  const rename = async (from: string, to: string): Promise<void> => {
    const code = codes[names.length];
    names.push([from, to]);
    if (code !== undefined) throw Object.assign(new Error(`${code}: rename`), { code });
  };
  return { platform, rename, waitsMs, names, wait: async (ms) => void waitsMs.push(ms) };
}

test("tries again on Windows while a file is in use, after longer and longer waits", async () => {
  const system = failing("win32", ["EPERM", "EBUSY", "EACCES"]);
  await renamePatiently("a", "b", system);
  expect(system.names).toEqual([
    ["a", "b"],
    ["a", "b"],
    ["a", "b"],
    ["a", "b"],
  ]);
  expect(system.waitsMs).toEqual([10, 20, 40]);
});

test("gives up on Windows after some seconds", async () => {
  const system = failing(
    "win32",
    Array.from({ length: 100 }, () => "EPERM"),
  );
  await expect(renamePatiently("a", "b", system)).rejects.toThrow("EPERM");
  expect(system.waitsMs.reduce((sum, ms) => sum + ms)).toBe(2550);
});

test.each([
  ["win32", "ENOENT"],
  ["linux", "EPERM"],
  ["darwin", "EBUSY"],
])("does not try again on %s after %s", async (platform, code) => {
  const system = failing(platform, [code]);
  await expect(renamePatiently("a", "b", system)).rejects.toMatchObject({ code });
  expect(system.names).toHaveLength(1);
  expect(system.waitsMs).toEqual([]);
});

test("renames a file, also over another one", async () => {
  const folder = await temporaryFolder();
  const [from, to] = [join(folder, "new"), join(folder, "old")];
  await writeFile(from, "new");
  await writeFile(to, "old");
  await renamePatiently(from, to);
  expect(await readFile(to, "utf8")).toBe("new");
  await expect(renamePatiently(from, to)).rejects.toMatchObject({ code: "ENOENT" });
});
