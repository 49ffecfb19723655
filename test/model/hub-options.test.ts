import { rm, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { describe, expect, test, vi } from "vitest";
import { hubCacheFolder } from "../../packages/model/src/hub/options.ts";
import { downloadModel } from "../../packages/model/src/hub/download-model.ts";
import { hangUp, status } from "../support/hub-server.ts";
import { INDEX, isolateEnvironment, NAME, setUp, WEIGHTS } from "../support/hub-setup.ts";
import { expectReadMeError } from "../support/rejection.ts";

isolateEnvironment();

describe("offline", () => {
  test("uses only the cache, by option or environment", async () => {
    const { server, commit, options } = await setUp();
    const path = await downloadModel(NAME, options);
    server.requests.length = 0;
    expect(await downloadModel(NAME, { ...options, offline: true })).toBe(path);
    expect(await downloadModel(`${NAME}@${commit}`, { ...options, offline: true })).toBe(path);
    vi.stubEnv("HF_HUB_OFFLINE", "1");
    expect(await downloadModel(NAME, options)).toBe(path);
    expect(server.requests).toEqual([]);
    await downloadModel(NAME, { ...options, offline: false });
    expect(server.requests).toHaveLength(1);
  });

  test("names the missing files", async () => {
    const { server, commit, folder, options } = await setUp();
    const offline = { ...options, offline: true };
    await expectReadMeError(downloadModel(NAME, offline), "ERR_OFFLINE", NAME, 'the revision "main"', folder);
    await downloadModel(NAME, options);
    await rm(join(folder, "blobs", server.oidOf(commit, "config.json")));
    await expectReadMeError(downloadModel(NAME, offline), "ERR_OFFLINE", '"config.json"');
    await rm(join(folder, "snapshots", commit, WEIGHTS));
    await expectReadMeError(downloadModel(NAME, offline), "ERR_OFFLINE", '"config.json"', `"${WEIGHTS}"`);
    await expectReadMeError(downloadModel(NAME, { ...offline, file: "x.gguf" }), "ERR_OFFLINE", '"x.gguf"');
    const index = JSON.stringify({ weight_map: { a: "../a.safetensors", b: "b.safetensors" } });
    await writeFile(join(folder, "snapshots", commit, INDEX), index);
    await expectReadMeError(downloadModel(NAME, offline), "ERR_OFFLINE", '"../a.safetensors", "b.safetensors"');
  });

  test("uses the cache when the hub cannot be reached", async () => {
    const { server, commit, options } = await setUp();
    const path = await downloadModel(NAME, options);
    server.fail(/revision/, hangUp, 5);
    expect(await downloadModel(NAME, options)).toBe(path);
    await rm(join(path, "generation_config.json"));
    server.fail(/tree/, status(429, { "retry-after": "9999" }));
    expect(await downloadModel(`${NAME}@${commit}`, options)).toBe(path);
    server.fail(/revision/, hangUp, 5);
    await rm(join(path, WEIGHTS));
    await expectReadMeError(downloadModel(NAME, options), "ERR_HUB_UNREACHABLE");
  });

  test("names a server that refuses connections, with the reason", async () => {
    const { options } = await setUp();
    const endpoint = "http://127.0.0.1:1";
    await expectReadMeError(
      downloadModel(NAME, { ...options, endpoint }),
      "ERR_HUB_UNREACHABLE",
      endpoint,
      "cannot be",
    );
  });
});

describe("the environment", () => {
  test("sets endpoint and cache", async () => {
    const { server, commit, cacheFolder, folder } = await setUp();
    vi.stubEnv("HF_ENDPOINT", `${server.endpoint}/`);
    vi.stubEnv("HF_HUB_CACHE", cacheFolder);
    expect(await downloadModel(NAME)).toBe(join(folder, "snapshots", commit));
    vi.stubEnv("HF_ENDPOINT", "localhost");
    await expect(downloadModel(NAME)).rejects.toThrow(
      new TypeError('Expected `HF_ENDPOINT` to be an http(s) URL, got `"localhost"` (string)'),
    );
  });

  test("sets the same cache folder as Hugging Face's tools", () => {
    vi.stubEnv("HF_HOME", "");
    expect(hubCacheFolder()).toBe(join(homedir(), ".cache", "huggingface", "hub"));
    vi.stubEnv("XDG_CACHE_HOME", "/xdg");
    expect(hubCacheFolder()).toBe("/xdg/huggingface/hub");
    vi.stubEnv("HF_HOME", "~/home");
    expect(hubCacheFolder()).toBe(join(homedir(), "home", "hub"));
    vi.stubEnv("HUGGINGFACE_HUB_CACHE", "/legacy");
    expect(hubCacheFolder()).toBe("/legacy");
    vi.stubEnv("HF_HUB_CACHE", "/cache");
    expect(hubCacheFolder()).toBe("/cache");
  });
});

describe("a wrong argument", () => {
  test.each([
    "",
    "a/b/c",
    "../a",
    "a/..",
    "a b",
    "/a",
    "a/",
    "-a/b",
    "a--b/c",
    "a/b.git",
    "a@",
    "a@../x",
    "a@/x",
    7,
    undefined,
  ])("is a TypeError for the id %j", async (id) => {
    await expect(downloadModel(id as string, { offline: true })).rejects.toThrow(/^Expected `id` to name a /);
  });

  const wrong: readonly (readonly [Record<string, unknown>, string])[] = [
    [{ revison: "x" }, "Unknown option `revison` of downloadModel, did you mean `revision`?"],
    [{ revision: "a/../b" }, 'Expected `revision` to name a branch, a tag or a commit, got `"a/../b"` (string)'],
    [{ revision: 1 }, "Expected `revision` to name a branch, a tag or a commit, got `1` (number)"],
    [
      { file: "x.bin" },
      'Expected `file` to be the name of a .gguf or .onnx file in the repository, got `"x.bin"` (string)',
    ],
    [
      { file: "../x.gguf" },
      'Expected `file` to be the name of a .gguf or .onnx file in the repository, got `"../x.gguf"` (string)',
    ],
    [{ cacheFolder: "" }, 'Expected `cacheFolder` to be the path of a folder, got `""` (string)'],
    [{ endpoint: "ftp://x" }, 'Expected `endpoint` to be an http(s) URL, got `"ftp://x"` (string)'],
    [{ token: "a\nb" }, "Expected `token` to be an access token of printable characters without spaces"],
    [{ offline: "yes" }, 'Expected `offline` to be a boolean, got `"yes"` (string)'],
    [{ signal: {} }, "Expected `signal` to be an AbortSignal, got `{…}` (object)"],
    [{ onProgress: 1 }, "Expected `onProgress` to be a function, got `1` (number)"],
    [{ fetch: 1 }, "Expected `fetch` to be a function, got `1` (number)"],
    [{ delay: 1 }, "Expected `delay` to be a function, got `1` (number)"],
  ];
  test.each(wrong)("is a TypeError that names %j", async (options, message) => {
    await expect(downloadModel(NAME, options)).rejects.toThrow(new TypeError(message));
  });

  test("is a TypeError for two revisions, and for options that are no object", async () => {
    await expect(downloadModel(`${NAME}@a`, { revision: "b" })).rejects.toThrow("got both");
    await expect(downloadModel(NAME, null as never)).rejects.toThrow("Expected `options` to be an object");
  });
});
