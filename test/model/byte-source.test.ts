import { execFileSync } from "node:child_process";
import { readSync } from "node:fs";
import { mkdir, truncate, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { ByteSource } from "../../packages/model/src/files/read-file.ts";
import { Deferred } from "../support/deferred.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

async function fileOf(bytes: Uint8Array): Promise<string> {
  const path = join(await temporaryFolder(), "some.bin");
  await writeFile(path, bytes);
  return path;
}

describe("ByteSource", () => {
  test("reads any range, also in pieces smaller than the range", async () => {
    const bytes = Uint8Array.from({ length: 1000 }, (_, i) => i % 251);
    const source = await ByteSource.open(await fileOf(bytes), { maxPieceBytes: 7 });
    expect(source.size).toBe(1000);
    expect(await source.read(0, 1000)).toEqual(bytes);
    expect(await source.read(13, 100)).toEqual(bytes.subarray(13, 113));
    expect(await source.read(1000, 0)).toEqual(new Uint8Array(0));
    await source.close();
  });

  test("serves concurrent reads", async () => {
    const bytes = Uint8Array.from({ length: 1000 }, (_, i) => i % 251);
    const source = await ByteSource.open(await fileOf(bytes), { maxPieceBytes: 10 });
    const parts = await Promise.all([source.read(900, 100), source.read(0, 100), source.read(450, 100)]);
    expect(parts).toEqual([bytes.subarray(900), bytes.subarray(0, 100), bytes.subarray(450, 550)]);
    await source.close();
  });

  test("names file and subject when a range is beyond the end", async () => {
    const path = await fileOf(new Uint8Array(10));
    const source = await ByteSource.open(path);
    await expectReadMeError(source.read(4, 7, 'tensor "x"'), "ERR_FILE_CORRUPT", path, 'tensor "x"', "ends at byte 10");
    await source.close();
  });

  test("notices a file that was truncated after it was opened", async () => {
    const path = await fileOf(new Uint8Array(100));
    const source = await ByteSource.open(path);
    await truncate(path, 40);
    await expectReadMeError(source.read(20, 60), "ERR_FILE_CORRUPT", path, "ends at byte 40");
    await source.close();
  });

  test("allocates no memory for a range that the file does not hold", async () => {
    const source = await ByteSource.open(await fileOf(new Uint8Array(10)));
    const before = process.memoryUsage().arrayBuffers;
    await expectReadMeError(source.read(0, 2 ** 32), "ERR_FILE_CORRUPT");
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(2 ** 20);
    await source.close();
  });

  test("reports a sparse file whose range no array can hold", async () => {
    const path = await fileOf(new Uint8Array(10));
    await truncate(path, 2 ** 43);
    const source = await ByteSource.open(path);
    await expectReadMeError(source.read(0, 2 ** 43), "ERR_FILE_UNREADABLE", path, "memory");
    await source.close();
  });

  test("distinguishes a missing file, a folder and a named pipe, without waiting for the pipe", async () => {
    const folder = await temporaryFolder();
    await mkdir(join(folder, "sub"));
    execFileSync("mkfifo", [join(folder, "pipe")]);
    await expectReadMeError(ByteSource.open(join(folder, "none")), "ERR_FILE_NOT_FOUND", join(folder, "none"));
    await expectReadMeError(ByteSource.open(join(folder, "sub")), "ERR_FILE_UNREADABLE", join(folder, "sub"), "folder");
    await expectReadMeError(
      ByteSource.open(join(folder, "pipe")),
      "ERR_FILE_UNREADABLE",
      join(folder, "pipe"),
      "named pipe",
    );
  });

  test("keeps the system's error as the cause", async () => {
    const folder = await temporaryFolder();
    const error = await expectReadMeError(ByteSource.open(join(folder, "x".repeat(300))), "ERR_FILE_UNREADABLE");
    expect(error.cause).toMatchObject({ code: "ENAMETOOLONG" });
  });

  test("refuses to read after it was closed, and can be closed twice", async () => {
    const source = await ByteSource.open(await fileOf(new Uint8Array(10)));
    await source.close();
    await source.close();
    await expectReadMeError(source.read(0, 1), "ERR_DISPOSED", source.path);
  });

  test("lends the open file, and closes it when the last use of it has settled", async () => {
    const source = await ByteSource.open(await fileOf(new Uint8Array(10).fill(7)));
    const [first, second] = [new Deferred<string>(), new Deferred<string>()];
    const failing = second.promise.then(() => Promise.reject(new Error("second")));
    const numbers: number[] = [];
    const uses = [first.promise, failing].map((promise) =>
      source.lend((descriptor) => {
        numbers.push(descriptor);
        return promise;
      }),
    );
    const closed = source.close();
    await expectReadMeError(
      source.lend(async () => "late"),
      "ERR_DISPOSED",
    );
    first.resolve("first");
    expect(await uses[0]).toBe("first");
    // Its number still names the file.
    expect(readSync(numbers[0]!, new Uint8Array(10), 0, 10, 0)).toBe(10);
    second.resolve("");
    await expect(uses[1]).rejects.toThrow("second");
    await closed;
    expect(() => readSync(numbers[1]!, new Uint8Array(10), 0, 10, 0)).toThrow("EBADF");
  });

  test.each([
    ["of another length", (path: string) => truncate(path, 9)],
    ["of another time", (path: string) => utimes(path, 1, 1)],
  ])("lends no file %s than it had when it was opened", async (_, change) => {
    const path = await fileOf(new Uint8Array(10));
    const source = await ByteSource.open(path);
    expect(await source.lend(async () => "used")).toBe("used");
    await change(path);
    const used = source.lend(async () => "used");
    await expectReadMeError(used, "ERR_FILE_CORRUPT", path, "was changed since it was opened");
    await source.close();
  });
});
