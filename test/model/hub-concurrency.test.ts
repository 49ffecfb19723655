import { spawn, type ChildProcess } from "node:child_process";
import { open, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, onTestFinished, test, vi } from "vitest";
import { openModel } from "@readme-moe/model";
import type { DownloadProgress } from "../../packages/model/src/hub/options.ts";
import { exclusively } from "../../packages/model/src/hub/hub-cache.ts";
import { downloadModel } from "../../packages/model/src/hub/download-model.ts";
import { cutAfter } from "../support/hub-server.ts";
import {
  filesBelow,
  incompleteIn,
  isolateEnvironment,
  llama,
  NAME,
  onceThere,
  setUp,
  type Setup,
  weights,
  WEIGHTS,
} from "../support/hub-setup.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { moduleUrl, NODE_FLAGS } from "../support/run-cli.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

isolateEnvironment();

/** Another process that downloads, and prints its progress and at the end the path. */
function otherProcess({ options }: Setup): {
  readonly child: ChildProcess;
  readonly until: (text: string) => Promise<void>;
} {
  const { endpoint, cacheFolder } = options;
  const script = `
    import { downloadModel } from ${JSON.stringify(moduleUrl("model/src/hub/download-model.ts"))};
    const onProgress = ({ file, doneBytes }) => console.log(file, doneBytes + ";");
    const path = await downloadModel(${JSON.stringify(NAME)}, ${JSON.stringify({ endpoint, cacheFolder }).slice(0, -1)}, onProgress });
    console.log("at " + path + ";");`;
  const flags = [...NODE_FLAGS, "--input-type=module", "--eval", script];
  const child = spawn(process.execPath, flags, { stdio: ["ignore", "pipe", "inherit"] });
  onTestFinished(() => void child.kill("SIGKILL"));
  let output = "";
  let check: (() => void) | undefined;
  child.stdout.on("data", (chunk: Buffer) => {
    output += chunk.toString();
    check?.();
  });
  const until = (text: string): Promise<void> =>
    new Promise((resolve) => {
      check = () => {
        if (output.includes(text)) resolve();
      };
      check();
    });
  return { child, until };
}

describe("several downloads at once", () => {
  test("fetch each file once in one process", async () => {
    const { server, options } = await setUp();
    const paths = await Promise.all([1, 2, 3].map(() => downloadModel(NAME, options)));
    expect(new Set(paths).size).toBe(1);
    expect(server.fileRequests.toSorted()).toEqual(Object.keys(llama).sort());
    await (await openModel(paths[0] ?? "")).close();
  });

  test("continue when the download that fetches is aborted", async () => {
    const { server, options } = await setUp();
    server.fail(/^storage/, cutAfter(100_000, weights).fault);
    const controller = new AbortController();
    let other: Promise<string> | undefined;
    const onProgress = onceThere(100_000, () => {
      other = downloadModel(NAME, options);
      controller.abort(new Error("the first left"));
    });
    const first = downloadModel(NAME, { ...options, onProgress, signal: controller.signal });
    await expect(first).rejects.toThrow("the first left");
    await (await openModel((await other) ?? "")).close();
    expect(server.fileRequests.slice(-2)).toEqual([WEIGHTS, `${WEIGHTS} bytes=100000-`]);
  });

  test("run one after another, and can be aborted while they wait", async () => {
    let end: (() => void) | undefined;
    const order: string[] = [];
    const controller = new AbortController();
    const first = exclusively("file", undefined, () => new Promise<void>((resolve) => (end = resolve)));
    const second = exclusively("file", controller.signal, async () => void order.push("second"));
    const third = exclusively("file", new AbortController().signal, async () => void order.push("third"));
    await exclusively("another file", undefined, async () => void order.push("another"));
    controller.abort(new Error("the second left"));
    await expect(second).rejects.toThrow("the second left");
    expect(order).toEqual(["another"]);
    end?.();
    await Promise.all([first, third]);
    expect(order).toEqual(["another", "third"]);
  });

  test("do not disturb each other in two processes", async () => {
    const setup = await setUp();
    const { server, options, folder } = setup;
    let goOn: (() => void) | undefined;
    server.fail(/^storage/, (response) => {
      response.writeHead(200, { "content-length": weights.byteLength }).write(weights.subarray(0, 100_000));
      goOn = () => response.end(weights.subarray(100_000));
    });
    const other = otherProcess(setup);
    await other.until(`${WEIGHTS} 100000;`);
    const path = await downloadModel(NAME, options);
    expect(server.fileRequests.at(-1)).toBe(WEIGHTS);
    goOn?.();
    await other.until(`at ${path};`);
    await (await openModel(path)).close();
    expect(await incompleteIn(folder)).toEqual([]);
  });

  test("keep their bytes for the next download when their process is killed", async () => {
    const setup = await setUp();
    const { server, options, folder } = setup;
    server.fail(/^storage/, cutAfter(100_000, weights).fault);
    const { child, until } = otherProcess(setup);
    await until(`${WEIGHTS} 100000;`);
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGKILL");
    await ended;
    await (await openModel(await downloadModel(NAME, options))).close();
    expect(server.fileRequests.at(-1)).toBe(`${WEIGHTS} bytes=100000-`);
    expect(await incompleteIn(folder)).toEqual([]);
  });
});

describe("a disk error", () => {
  test("leaves no part of the file when the disk is full", async () => {
    const { server, commit, folder, options } = await setUp();
    const handle = await open(import.meta.filename);
    const write = vi.spyOn(Object.getPrototypeOf(handle) as typeof handle, "write");
    onTestFinished(() => write.mockRestore());
    await handle.close();
    const full = Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC" });
    const onProgress = ({ file, doneBytes }: DownloadProgress): void => {
      if (file === WEIGHTS && doneBytes > 0) write.mockRejectedValue(full);
    };
    const error = await expectReadMeError(
      downloadModel(NAME, { ...options, onProgress }),
      "ERR_WRITE_FAILED",
      "no space left",
    );
    expect(error.cause).toBe(full);
    expect(await filesBelow(join(folder, "blobs"))).not.toContain(server.oidOf(commit, WEIGHTS));
    expect(await incompleteIn(folder)).toEqual([]);
    write.mockRestore();
    await (await openModel(await downloadModel(NAME, options))).close();
  });

  test("names the cache that cannot be created", async () => {
    const { options } = await setUp();
    const cacheFolder = join(await temporaryFolder(), "file");
    await writeFile(cacheFolder, "");
    await expectReadMeError(downloadModel(NAME, { ...options, cacheFolder }), "ERR_WRITE_FAILED", cacheFolder);
  });
});
