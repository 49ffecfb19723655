import { lstat, mkdir, readdir, readFile, readlink, stat, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test, vi } from "vitest";
import { openModel } from "@readme-moe/model";
import { downloadModel } from "../../packages/model/src/hub/download-model.ts";
import type { DownloadProgress } from "../../packages/model/src/hub/options.ts";
import { sha256, status } from "../support/hub-server.ts";
import {
  filesBelow,
  incompleteIn,
  INDEX,
  isolateEnvironment,
  llama,
  NAME,
  setUp,
  WEIGHTS,
  weights,
} from "../support/hub-setup.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { writeTinyReadMe } from "../support/tiny-read-me.ts";

isolateEnvironment();

describe("a download", () => {
  test("puts a model into the shared layout, from which it opens", async () => {
    const { server, commit, folder, options } = await setUp({ ...llama, "tokenizer.json": "{}", "README.md": "no" });
    const path = await downloadModel(NAME, options);
    expect(path).toBe(join(folder, "snapshots", commit));
    expect((await readdir(path)).sort()).toEqual([...Object.keys(llama), "tokenizer.json"].sort());
    for (const [name, bytes] of Object.entries(llama)) {
      expect(await readlink(join(path, name))).toBe(join("..", "..", "blobs", server.oidOf(commit, name)));
      expect(Buffer.compare(await readFile(join(path, name)), bytes)).toBe(0);
    }
    expect(await readFile(join(folder, "refs", "main"), "utf8")).toBe(commit);
    expect(server.oidOf(commit, WEIGHTS)).toBe(sha256(weights));
    expect(await incompleteIn(folder)).toEqual([]);
    const model = await openModel(path);
    expect(model.kind).toBe("dense");
    await model.close();
  });

  test("requests no file again, and makes no request for a commit", async () => {
    const { server, commit, options } = await setUp();
    const path = await downloadModel(NAME, options);
    expect(server.fileRequests.toSorted()).toEqual(Object.keys(llama).sort());
    server.requests.length = 0;
    expect(await downloadModel(NAME, options)).toBe(path);
    expect(server.requests.map((request) => request.path)).toEqual([`/api/models/${NAME}/revision/main`]);
    server.requests.length = 0;
    expect(await downloadModel(`${NAME}@${commit}`, options)).toBe(path);
    expect(server.requests).toEqual([]);
  });

  test("uses files of another tool, and fetches the others", async () => {
    const { server, commit, folder, options } = await setUp();
    const oid = server.oidOf(commit, WEIGHTS);
    await mkdir(join(folder, "blobs"), { recursive: true });
    await mkdir(join(folder, "snapshots", commit), { recursive: true });
    await writeFile(join(folder, "blobs", oid), weights);
    await symlink(`../../blobs/${oid}`, join(folder, "snapshots", commit, WEIGHTS));
    const path = await downloadModel(NAME, options);
    expect(server.fileRequests.toSorted()).toEqual(["config.json", "generation_config.json"]);
    await (await openModel(path)).close();
  });

  test("links a blob of an earlier commit, and replaces blobs of the wrong size and broken links", async () => {
    const { server, commit, folder, options } = await setUp();
    await downloadModel(NAME, options);
    const next = server.commit({
      ...llama,
      "config.json": `${Buffer.from(llama["config.json"] ?? []).toString()}\n`,
    });
    await writeFile(join(folder, "blobs", server.oidOf(commit, "generation_config.json")), "cut");
    await mkdir(join(folder, "snapshots", next), { recursive: true });
    await symlink("../../blobs/nowhere", join(folder, "snapshots", next, WEIGHTS));
    server.requests.length = 0;
    const path = await downloadModel(NAME, options);
    expect(server.fileRequests.toSorted()).toEqual(["config.json", "generation_config.json"]);
    await (await openModel(path)).close();
  });

  test("records the optional files that a commit does not have", async () => {
    const { commit, folder, options } = await setUp();
    await downloadModel(NAME, options);
    expect((await readdir(join(folder, ".no_exist", commit))).sort()).toEqual([
      "1_LogitScore",
      "1_Pooling",
      "2_Dense",
      "3_Dense",
      "chat_template.jinja",
      "config_sentence_transformers.json",
      "modules.json",
      "sentence_bert_config.json",
      "special_tokens_map.json",
      "tokenizer.json",
      "tokenizer_config.json",
    ]);
  });

  test("fetches the files of a Read-ME folder", async () => {
    const source = join(await temporaryFolder(), "tiny");
    await writeTinyReadMe(source);
    const names = await filesBelow(source);
    const files = await Promise.all(names.map(async (name) => [name, await readFile(join(source, name))] as const));
    const { options } = await setUp({ ...Object.fromEntries(files), "experts/99.safetensors": "unused" });
    const path = await downloadModel(NAME, options);
    expect(await filesBelow(path)).toEqual(names);
    const model = await openModel(path);
    expect(model.kind).toBe("read-me");
    await model.close();
  });

  test("fetches an index and its shards, from a listing in several pages", async () => {
    const index = JSON.stringify({
      weight_map: { a: "one.safetensors", b: "deep/two.safetensors", c: "one.safetensors" },
    });
    const files = {
      "config.json": "{}",
      [INDEX]: index,
      "one.safetensors": "1",
      "deep/two.safetensors": "2",
      "x.safetensors": "",
    };
    const { server, options } = await setUp(files);
    server.pageSize = 2;
    const path = await downloadModel(NAME, options);
    expect(await filesBelow(path)).toEqual(["config.json", "deep/two.safetensors", INDEX, "one.safetensors"].sort());
    expect(await readFile(join(path, "deep/two.safetensors"), "utf8")).toBe("2");
  });

  test("reports the progress of each file that is fetched", async () => {
    const { options } = await setUp();
    const events: DownloadProgress[] = [];
    await downloadModel(NAME, { ...options, onProgress: (event) => events.push(event) });
    for (const [file, bytes] of Object.entries(llama)) {
      const own = events.filter((event) => event.file === file);
      expect(own[0]).toEqual({ file, doneBytes: 0, ofBytes: bytes.byteLength });
      expect(own.at(-1)).toEqual({ file, doneBytes: bytes.byteLength, ofBytes: bytes.byteLength });
      expect(own.map((event) => event.doneBytes)).toEqual(own.map((event) => event.doneBytes).sort((a, b) => a - b));
    }
    events.length = 0;
    await downloadModel(NAME, { ...options, onProgress: (event) => events.push(event) });
    expect(events).toEqual([]);
  });

  test("ends with the error that `onProgress` throws", async () => {
    const { options, waits } = await setUp();
    const reason = new RangeError("enough");
    const onProgress = (): void => {
      throw reason;
    };
    await expect(downloadModel(NAME, { ...options, onProgress })).rejects.toBe(reason);
    expect(waits).toEqual([]);
  });

  test("makes hard links when symbolic links are turned off", async () => {
    vi.stubEnv("HF_HUB_DISABLE_SYMLINKS", "1");
    const { server, commit, folder, options } = await setUp();
    const path = await downloadModel(NAME, options);
    const link = await lstat(join(path, WEIGHTS));
    expect(link.isFile()).toBe(true);
    expect(link.ino).toBe((await stat(join(folder, "blobs", server.oidOf(commit, WEIGHTS)))).ino);
    await (await openModel(path)).close();
  });

  test("creates an empty file without a request", async () => {
    const { server, options } = await setUp({ ...llama, "chat_template.jinja": "" });
    expect(await readFile(join(await downloadModel(NAME, options), "chat_template.jinja"), "utf8")).toBe("");
    expect(server.fileRequests).not.toContain("chat_template.jinja");
  });
});

describe("revisions", () => {
  test("follow a branch that moves, and keep the files of each commit", async () => {
    const { server, commit, folder, options } = await setUp();
    const old = await downloadModel(NAME, options);
    const next = server.commit({ ...llama, "generation_config.json": "{}" });
    const path = await downloadModel(NAME, options);
    expect(path).toBe(join(folder, "snapshots", next));
    expect(await readFile(join(path, "generation_config.json"), "utf8")).toBe("{}");
    expect(await readFile(join(folder, "refs", "main"), "utf8")).toBe(next);
    expect(await downloadModel(NAME, { ...options, revision: commit })).toBe(old);
    await (await openModel(old)).close();
    expect(await readFile(join(folder, "refs", "main"), "utf8")).toBe(next);
  });

  test("may be a tag in the id or in the option", async () => {
    const { server, folder, options } = await setUp();
    const tagged = server.commit({ ...llama, "generation_config.json": "{}" }, "v1.0");
    const path = join(folder, "snapshots", tagged);
    expect(await downloadModel(`${NAME}@v1.0`, options)).toBe(path);
    expect(await downloadModel(NAME, { ...options, revision: "v1.0" })).toBe(path);
    expect(await readdir(join(folder, "refs"))).toEqual(["v1.0"]);
  });

  test("are not looked up when they are commits", async () => {
    const { server, commit, options } = await setUp();
    await downloadModel(`${NAME}@${commit}`, options);
    expect(server.requests.filter(({ path }) => path.startsWith("/api")).map(({ path }) => path)).toEqual([
      `/api/models/${NAME}/tree/${commit}`,
    ]);
  });

  test("are recorded only when all files are there", async () => {
    const { server, folder, options } = await setUp();
    server.fail(/resolve.*safetensors/, status(404));
    await expectReadMeError(downloadModel(NAME, options), "ERR_HUB_NOT_FOUND", WEIGHTS);
    expect(await filesBelow(join(folder, "refs"))).toEqual([]);
  });
});
