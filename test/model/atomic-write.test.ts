import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { writeFileAtomically } from "../../packages/model/src/files/write-file.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

describe("writeFileAtomically", () => {
  test("writes text, bytes and chunks in place of the old file", async () => {
    const path = join(await temporaryFolder(), "out");
    await writeFileAtomically(path, "tea: 茶");
    expect(await readFile(path, "utf8")).toBe("tea: 茶");
    await writeFileAtomically(path, Uint8Array.of(1, 2, 3));
    expect([...(await readFile(path))]).toEqual([1, 2, 3]);
    await writeFileAtomically(path, [Uint8Array.of(4), new Uint8Array(0), Uint8Array.of(5, 6)]);
    expect([...(await readFile(path))]).toEqual([4, 5, 6]);
    expect(await readdir(join(path, ".."))).toEqual(["out"]);
  });

  test("asks for a chunk when the one before is written, and shows no file before the end", async () => {
    const folder = await temporaryFolder();
    const path = join(folder, "out");
    const seen: number[][] = [];
    async function* chunks(): AsyncGenerator<Uint8Array, void, undefined> {
      for (const value of [1, 2, 3]) {
        const [temporary] = await readdir(folder);
        expect(await readdir(folder)).not.toContain("out");
        seen.push([...(await readFile(join(folder, temporary ?? "")))]);
        yield Uint8Array.of(value);
      }
    }
    await writeFileAtomically(path, chunks());
    expect(seen).toEqual([[], [1], [1, 2]]);
    expect([...(await readFile(path))]).toEqual([1, 2, 3]);
  });

  test("keeps the old file and leaves no temporary file when a chunk fails", async () => {
    const folder = await temporaryFolder();
    const path = join(folder, "out");
    await writeFile(path, "old");
    const cause = new Error("no more tea");
    async function* chunks(): AsyncGenerator<Uint8Array, void, undefined> {
      yield Uint8Array.of(1);
      throw cause;
    }
    const error = await expectReadMeError(writeFileAtomically(path, chunks()), "ERR_WRITE_FAILED", path, "no more tea");
    expect(error.cause).toBe(cause);
    expect(await readdir(folder)).toEqual(["out"]);
    expect(await readFile(path, "utf8")).toBe("old");
  });

  test("leaves no file behind when the target is a folder or its folder is missing", async () => {
    const folder = await temporaryFolder();
    await mkdir(join(folder, "sub"));
    await writeFile(join(folder, "sub", "kept"), "");
    await expectReadMeError(writeFileAtomically(join(folder, "sub"), "x"), "ERR_WRITE_FAILED", "sub");
    await expectReadMeError(writeFileAtomically(join(folder, "none", "x"), "x"), "ERR_WRITE_FAILED", "none");
    expect(await readdir(folder)).toEqual(["sub"]);
  });

  test("lets concurrent writers of one file each write it whole", async () => {
    const folder = await temporaryFolder();
    const path = join(folder, "out");
    const contents = Array.from({ length: 8 }, (_, i) => String(i).repeat(1000));
    await Promise.all(contents.map((content) => writeFileAtomically(path, content)));
    expect(contents).toContain(await readFile(path, "utf8"));
    expect(await readdir(folder)).toEqual(["out"]);
  });

  test("writes a file with the longest possible name", async () => {
    const path = join(await temporaryFolder(), "n".repeat(255));
    await writeFileAtomically(path, "x");
    expect(await readFile(path, "utf8")).toBe("x");
  });
});
