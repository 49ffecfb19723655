// An engine opens a model by its name: downloads it when it is not here, and keeps it from being removed until it is
// disposed.

import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, expect, test, vi } from "vitest";
import { type LoadProgress, ReadMeEngine } from "@readme-moe/engine";
import { listModels, removeModels } from "@readme-moe/model";
import { complete } from "../support/complete.ts";
import { HubServer } from "../support/hub-server.ts";
import { isolateEnvironment } from "../support/hub-setup.ts";
import { cases, greedy, POCKET, rightAnswers } from "../support/pocket.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

isolateEnvironment();

const files: Record<string, Buffer> = {};
for (const name of await readdir(POCKET)) {
  if (/\.(?:json|safetensors)$/.test(name)) files[name] = await readFile(join(POCKET, name));
}

let cacheFolder: string;

beforeEach(async () => {
  cacheFolder = await temporaryFolder();
  vi.stubEnv("HF_HUB_CACHE", await temporaryFolder());
  const server = await HubServer.start("Qwen/Qwen3-0.6B");
  server.commit(files);
  vi.stubEnv("HF_ENDPOINT", server.endpoint);
});

async function remove(): Promise<void> {
  const listed = await listModels({ cacheFolder });
  expect(listed.models.map(({ name }) => name)).toEqual(["qwen3:0.6b"]);
  await removeModels(listed.models, listed, { cacheFolder });
}

test("a short name is downloaded, answers as the files do, and stays while the engine has it", async () => {
  const stages: LoadProgress["stage"][] = [];
  const onProgress = ({ stage, doneBytes, ofBytes }: LoadProgress): void => {
    if (stages.at(-1) !== stage) stages.push(stage);
    expect(doneBytes).toBeLessThanOrEqual(ofBytes);
  };
  const options = { cacheFolder, precision: "fp32", isolation: "process", threads: 2 } as const;
  const engine = await ReadMeEngine.open("qwen3:0.6b", { ...options, onProgress });
  expect(stages).toEqual(["downloading", "opening", "tokenizer", "building", "loading", "measuring"]);
  const ids = await Promise.all(
    cases.map(async ({ text }) => (await complete(engine, { prompt: text, params: greedy })).ids),
  );
  expect(ids).toEqual(rightAnswers);
  await expectReadMeError(remove(), "ERR_MODEL_IN_USE", `process ${process.pid} has it open`);
  // A failed engine will be opened again from the same files.
  engine.kill();
  await engine.whenFailed();
  await expectReadMeError(remove(), "ERR_MODEL_IN_USE");
  await engine.restart();
  await engine.dispose();
  await engine.dispose();
  stages.length = 0;
  const again = await ReadMeEngine.open("Qwen/Qwen3-0.6B", { ...options, onProgress });
  expect(stages).not.toContain("downloading");
  expect((await listModels({ cacheFolder })).models).toMatchObject([
    { packed: [{ kind: "kernels" }], users: [{ pid: process.pid }] },
  ]);
  await again.dispose();
  await remove();
  expect(await listModels({ cacheFolder })).toEqual({ models: [], unclaimed: [] });
});

test("an engine that cannot be opened leaves no mark", async () => {
  const options = { cacheFolder, precision: "fp32" } as const;
  const wrong = ReadMeEngine.open("qwen3:0.6b", { ...options, expert: "nobody", threads: 1 });
  await expect(wrong).rejects.toThrow("expert");
  await expectReadMeError(
    ReadMeEngine.open("qwen3:0.6b", { ...options, draftHead: "none/at/all" }),
    "ERR_FILE_NOT_FOUND",
  );
  await remove();
});

test("unknown names and wrong options fail at once", async () => {
  await expectReadMeError(ReadMeEngine.open("qwen3:0.6"), "ERR_FILE_NOT_FOUND", "did you mean qwen3:0.6b");
  await expect(ReadMeEngine.open("")).rejects.toThrow(TypeError);
  const signal = AbortSignal.abort(new Error("never mind"));
  await expect(ReadMeEngine.open("qwen3:0.6b", { signal })).rejects.toThrow("never mind");
});
