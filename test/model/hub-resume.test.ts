import { mkdir, open, readFile, rm, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, onTestFinished, test, vi } from "vitest";
import { openModel } from "@readme-moe/model";
import { downloadModel } from "../../packages/model/src/hub/download-model.ts";
import type { DownloadProgress } from "../../packages/model/src/hub/options.ts";
import { cutAfter, instead, status } from "../support/hub-server.ts";
import {
  filesBelow,
  incompleteIn,
  isolateEnvironment,
  llama,
  NAME,
  onceThere,
  setUp,
  WEIGHTS,
  weights,
} from "../support/hub-setup.ts";
import { expectReadMeError } from "../support/rejection.ts";

isolateEnvironment();

describe("an interrupted download", () => {
  test("continues in the same call, with a request for the missing bytes only", async () => {
    const { server, waits, options } = await setUp();
    const { fault, cut } = cutAfter(100_000, weights);
    server.fail(/^storage/, fault);
    await downloadModel(NAME, { ...options, onProgress: onceThere(100_000, cut) });
    expect(server.fileRequests.slice(-2)).toEqual([WEIGHTS, `${WEIGHTS} bytes=100000-`]);
    expect(waits).toEqual([500]);
  });

  test("may be interrupted any number of times while it makes progress", async () => {
    const step = 1 << 20;
    const large = Buffer.alloc(7 * step, "large");
    const { server, options } = await setUp({ ...llama, [WEIGHTS]: large });
    const cuts = [0, 1, 2, 3, 4, 5].map((i) => cutAfter(step, large, i * step));
    for (const { fault } of cuts) server.fail(/^storage/, fault);
    const onProgress = ({ doneBytes }: DownloadProgress): void => cuts[doneBytes / step - 1]?.cut();
    await downloadModel(NAME, { ...options, onProgress });
    expect(server.fileRequests.slice(-1)).toEqual([`${WEIGHTS} bytes=${6 * step}-`]);
  });

  test("is kept for a later call when it is aborted, and rejects with the signal's reason", async () => {
    const { server, commit, folder, options } = await setUp();
    const { fault } = cutAfter(200_000, weights);
    server.fail(/^storage/, fault);
    const controller = new AbortController();
    const reason = new Error("the user left");
    const onProgress = onceThere(200_000, () => controller.abort(reason));
    await expect(downloadModel(NAME, { ...options, onProgress, signal: controller.signal })).rejects.toBe(reason);
    const oid = server.oidOf(commit, WEIGHTS);
    expect(await incompleteIn(folder)).toEqual([`blobs/${oid}.readme-moe.incomplete`]);
    const done: number[] = [];
    server.requests.length = 0;
    const path = await downloadModel(NAME, { ...options, onProgress: ({ doneBytes }) => done.push(doneBytes) });
    expect(server.fileRequests).toEqual([`${WEIGHTS} bytes=200000-`]);
    expect(done[0]).toBe(200_000);
    expect(await incompleteIn(folder)).toEqual([]);
    await (await openModel(path)).close();
  });

  test("starts over when the server ignores the range", async () => {
    const { server, options } = await setUp();
    server.storageIgnoresRange = true;
    const { fault, cut } = cutAfter(100_000, weights);
    server.fail(/^storage/, fault);
    const done: number[] = [];
    const onProgress = (progress: DownloadProgress): void => {
      if (progress.file === WEIGHTS) done.push(progress.doneBytes);
      onceThere(100_000, cut)(progress);
    };
    const path = await downloadModel(NAME, { ...options, onProgress });
    expect(server.fileRequests.slice(-2)).toEqual([WEIGHTS, `${WEIGHTS} bytes=100000-`]);
    expect(done.at(-1)).toBe(weights.byteLength);
    await (await openModel(path)).close();
  });

  const others: readonly (readonly [string, Record<string, string>])[] = [
    [
      "another hash",
      { "content-range": `bytes 100000-${weights.byteLength - 1}/${weights.byteLength}`, etag: '"f00"' },
    ],
    ["another range", { "content-range": `bytes 0-${weights.byteLength - 1}/${weights.byteLength}` }],
    ["another size", { "content-range": `bytes 100000-200000/200001` }],
  ];
  test.each(others)("starts over when the server continues with %s", async (_, headers) => {
    const { server, options } = await setUp();
    const { fault, cut } = cutAfter(100_000, weights);
    server.fail(/^hub.*safetensors/, fault);
    server.fail(/^hub.*safetensors/, status(206, headers));
    const path = await downloadModel(NAME, { ...options, onProgress: onceThere(100_000, cut) });
    expect(server.fileRequests.slice(-3)).toEqual([WEIGHTS, `${WEIGHTS} bytes=100000-`, WEIGHTS]);
    await (await openModel(path)).close();
  });

  test("starts over when the range is refused, or the kept bytes are wrong or too long", async () => {
    for (const leftover of [Buffer.alloc(1000, "wrong"), Buffer.concat([weights, weights])]) {
      const { server, commit, folder, options } = await setUp();
      await mkdir(join(folder, "blobs"), { recursive: true });
      const path = join(folder, "blobs", `${server.oidOf(commit, WEIGHTS)}.readme-moe.incomplete`);
      await writeFile(path, leftover);
      await (await openModel(await downloadModel(NAME, options))).close();
      expect(server.fileRequests.at(-1)).toBe(WEIGHTS);
    }
    const { server, options } = await setUp();
    const { fault, cut } = cutAfter(100_000, weights);
    server.fail(/^storage/, fault);
    server.fail(/^storage/, status(416));
    await downloadModel(NAME, { ...options, onProgress: onceThere(100_000, cut) });
    expect(server.fileRequests.slice(-3)).toEqual([WEIGHTS, `${WEIGHTS} bytes=100000-`, WEIGHTS]);
  });

  test("is kept when the call that continues it is aborted at once", async () => {
    const { server, commit, folder, options } = await setUp();
    const leftover = join(folder, "blobs", `${server.oidOf(commit, WEIGHTS)}.readme-moe.incomplete`);
    await mkdir(join(folder, "blobs"), { recursive: true });
    await writeFile(leftover, weights.subarray(0, 1000));
    const handle = await open(leftover);
    const stat = vi.spyOn(Object.getPrototypeOf(handle) as typeof handle, "stat");
    onTestFinished(() => stat.mockRestore());
    const controller = new AbortController();
    const reason = new Error("no time");
    // The size of each kept file is read before its content.
    stat.mockImplementation(async () => {
      if ((await filesBelow(folder)).includes(`snapshots/${commit}/config.json`)) controller.abort(reason);
      return { size: 1000, isFile: () => true } as never;
    });
    await handle.close();
    await expect(downloadModel(NAME, { ...options, signal: controller.signal })).rejects.toBe(reason);
    expect((await readFile(leftover)).byteLength).toBe(1000);
  });

  test("needs no request when all bytes are there", async () => {
    const { server, commit, folder, options } = await setUp();
    await mkdir(join(folder, "blobs"), { recursive: true });
    await writeFile(join(folder, "blobs", `${server.oidOf(commit, WEIGHTS)}.readme-moe.incomplete`), weights);
    await (await openModel(await downloadModel(NAME, options))).close();
    expect(server.fileRequests).not.toContain(WEIGHTS);
  });

  test("of another machine is continued when it is an hour old, and else not touched", async () => {
    const { server, commit, folder, options } = await setUp();
    await mkdir(join(folder, "blobs"), { recursive: true });
    const leftover = (id: string): string =>
      join(folder, "blobs", `${server.oidOf(commit, WEIGHTS)}.readme-moe-00000000-1-${id}.incomplete`);
    const hourAgo = Date.now() / 1000 - 3700;
    for (const [id, size, isOld] of [
      ["11111111", 500, false],
      ["22222222", 400, true],
      ["33333333", 300, true],
    ] as const) {
      await writeFile(leftover(id), weights.subarray(0, size));
      if (isOld) await utimes(leftover(id), hourAgo, hourAgo);
    }
    await downloadModel(NAME, options);
    expect(server.fileRequests.at(-1)).toBe(`${WEIGHTS} bytes=400-`);
    expect(await incompleteIn(folder)).toEqual([`blobs/${leftover("11111111").split("/").at(-1)}`]);
  });
});

describe("wrong content", () => {
  const damaged = Buffer.from(weights);
  damaged[5000] = (damaged[5000] ?? 0) ^ 1;

  test.each([
    ["a large file", WEIGHTS, /^storage/, damaged],
    ["a small file", "config.json", /resolve.*\/config.json/, Buffer.alloc(llama["config.json"]?.byteLength ?? 0, " ")],
    ["a file that is too long", WEIGHTS, /^storage/, Buffer.concat([weights, Buffer.of(0)])],
  ] as const)("of %s is fetched once more, then given up, and nothing of it stays", async (_, name, path, bytes) => {
    const { server, commit, folder, waits, options } = await setUp();
    server.fail(path, instead(bytes));
    await (await openModel(await downloadModel(NAME, options))).close();
    await rm(folder, { recursive: true });
    server.requests.length = 0;
    server.fail(path, instead(bytes), 2);
    await expectReadMeError(downloadModel(NAME, options), "ERR_FILE_CORRUPT", name, "tried twice");
    expect(server.fileRequests.filter((file) => file.startsWith(name))).toEqual([name, name]);
    expect(await filesBelow(folder)).not.toContain(`blobs/${server.oidOf(commit, name)}`);
    expect(await incompleteIn(folder)).toEqual([]);
    expect(waits).toEqual([]);
    await (await openModel(await downloadModel(NAME, options))).close();
  });

  test("that is too short counts as an interruption", async () => {
    const { server, waits, options } = await setUp();
    server.fail(/^storage/, instead(weights.subarray(0, 1000)));
    await (await openModel(await downloadModel(NAME, options))).close();
    expect(server.fileRequests.at(-1)).toBe(`${WEIGHTS} bytes=1000-`);
    expect(waits).toEqual([500]);
  });
});
