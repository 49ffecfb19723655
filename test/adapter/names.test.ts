// Short names and files of repositories in both hosts: with the host's own settings, after everything that the host
// itself would find.

import { cp, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { createPipeline, readMeModel, type HostLike } from "@readme-moe/adapter";
import { beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { openModel } from "@readme-moe/model";
import { writeQ8Gguf } from "../support/gguf/convert-model.ts";
import { FP32, findAnywhere, HOSTS, type Generator, type HostName } from "../support/hosts.ts";
import { HubServer } from "../support/hub-server.ts";
import { isolateEnvironment } from "../support/hub-setup.ts";
import { POCKET } from "../support/pocket.ts";
import { persistentFolder, temporaryFolder } from "../support/temporary-folder.ts";

isolateEnvironment();

const REPOSITORY = "HuggingFaceTB/SmolLM2-360M-Instruct";
const ONE = "The ship was";
const files: Record<string, Uint8Array> = {};

beforeAll(async () => {
  findAnywhere();
  for (const name of await readdir(POCKET)) {
    if (/\.(?:json|safetensors)$/.test(name)) files[name] = await readFile(join(POCKET, name));
  }
  const folder = await persistentFolder();
  const model = await openModel(POCKET);
  await writeQ8Gguf(model, join(folder, "pocket.gguf"));
  await model.close();
  files["Pocket-Q8_0.gguf"] = await readFile(join(folder, "pocket.gguf"));
});

beforeEach(async () => {
  vi.stubEnv("README_MOE_CACHE", await temporaryFolder());
});

/** Continues a text in the engine, and disposes the pipeline. */
async function answer(generate: Generator): Promise<string> {
  try {
    const [one] = (await generate(ONE, { max_new_tokens: 6, do_sample: false })) as [{ generated_text: string }];
    expect(readMeModel(generate.model)).toBeDefined();
    return one.generated_text;
  } finally {
    await generate.dispose();
  }
}

describe.each(["huggingface", "xenova"] as const)("%s", (name: HostName) => {
  const { env } = HOSTS[name];
  const load = (id: string, options: object = {}): Promise<Generator> =>
    createPipeline(HOSTS[name] as unknown as HostLike)("text-generation", id, {
      ...FP32,
      ...options,
    }) as unknown as Promise<Generator>;

  /** Serves the pocket model under a known repository's name, by the host's settings only. */
  async function withHub(use: (server: HubServer, cacheDir: string) => Promise<void>): Promise<void> {
    const before = { ...env };
    const server = await HubServer.start(REPOSITORY);
    server.commit(files);
    const cacheDir = await temporaryFolder();
    try {
      Object.assign(env, { allowRemoteModels: true, remoteHost: `${server.endpoint}/`, cacheDir });
      await use(server, cacheDir);
    } finally {
      Object.assign(env, before);
    }
  }

  test("a short name is downloaded by the host's settings, answers as the files do, and works offline later", async () => {
    const expected = await answer(await load(POCKET));
    await withHub(async (server, cacheDir) => {
      const events: { readonly status: string; readonly file?: string }[] = [];
      const progress_callback = (event: (typeof events)[number]): void => void events.push(event);
      expect(await answer(await load("smollm2:360m", { progress_callback }))).toBe(expected);
      expect(await readdir(cacheDir)).toContain("models--HuggingFaceTB--SmolLM2-360M-Instruct");
      expect(events.filter(({ file }) => file === "model.safetensors").map(({ status }) => status)).toContain("done");
      const numRequests = server.requests.length;
      Object.assign(env, { allowRemoteModels: false });
      expect(await answer(await load("SmolLM2-360M"))).toBe(expected);
      expect(server.requests).toHaveLength(numRequests);
      await expect(load("qwen3:0.6b")).rejects.toThrow(/qwen3:0\.6b/);
      expect(server.requests).toHaveLength(numRequests);
    });
  });

  test("one file of a repository is named by its name or its type", async () => {
    await withHub(async () => {
      const byName = await answer(await load(`${REPOSITORY}:Pocket-Q8_0.gguf`));
      expect(await answer(await load(`${REPOSITORY}:Q8_0`))).toBe(byName);
      await expect(load(`${REPOSITORY}:Q2_K`)).rejects.toThrow(/Q2_K/);
    });
  });

  test("what the host finds under the name comes first", async () => {
    const before = { ...env };
    const localModelPath = await temporaryFolder();
    await cp(POCKET, join(localModelPath, "smollm2-360m"), { recursive: true });
    try {
      Object.assign(env, { localModelPath, allowRemoteModels: false });
      expect(await answer(await load("smollm2-360m"))).toContain(ONE);
    } finally {
      Object.assign(env, before);
    }
  });

  test("a name that stands for nothing gives the host's own error", async () => {
    const own = HOSTS[name].pipeline as (...args: unknown[]) => Promise<unknown>;
    const expected = await own("text-generation", "smollm9").catch((error: Error) => error.message);
    await expect(load("smollm9")).rejects.toThrow(String(expected).slice(0, 30));
  });
});
