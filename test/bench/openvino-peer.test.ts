// OpenVINO as a peer, without Python: its requests, and a run without it.

import { copyFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { openModel } from "@readme-moe/model";
import type { Contender } from "../../bench/engine/contender.ts";
import { describe, expect, test } from "vitest";
import { open } from "../../bench/engine/contenders/openvino.ts";
import { writeDenseFolder } from "../../bench/engine/dense-folder.ts";
import { readyOpenVino } from "../../bench/engine/openvino.ts";
import { pinnedPackages, pythonEnvironment } from "../../bench/engine/python-environment.ts";
import { golden } from "../support/fixtures.ts";
import { promptLogits, runningModel } from "../support/running-model.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const ROOT = join(import.meta.dirname, "..", "..");
const POCKET = join(ROOT, "models", "pocket");
const REQUIREMENTS = join(ROOT, "bench", "peers", "openvino.txt");

/** Program with the protocol of openvino-process.py that answers with its request. */
const ECHO = `
import { createWriteStream } from "node:fs";
import { createInterface } from "node:readline";
console.log("libraries write here as they like");
const answers = createWriteStream("", { fd: 3 });
for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  if (request.newTokens === 7) process.exit(3);
  answers.write(JSON.stringify(request.newTokens === 13 ? { failure: "13 is too many" } : { result: request }) + "\\n");
}
`;

async function opened(code: string): Promise<Contender> {
  const script = join(await temporaryFolder(), "process.mjs");
  await writeFile(script, code);
  const files = { python: process.execPath, script, model: "a folder" };
  const spec = { engine: "openvino", variant: "int8", module: "", files };
  return open({ spec, threads: 2, maxSequences: 8, seed: 1, cacheFolder: undefined });
}

describe("the process beside the contender", () => {
  test("answers by lines, reports errors, and is measured for memory", async () => {
    const contender = await opened(ECHO);
    const prompts = [[1, 2], [3]];
    expect(await contender.generate(prompts, 4)).toEqual({ kind: "generate", prompts, newTokens: 4 });
    expect(await contender.logProbabilities([[1, 2]])).toEqual({ kind: "logProbabilities", sequences: [[1, 2]] });
    await expect(contender.generate([], 13)).rejects.toThrow("13 is too many");
    expect(contender.processId).not.toBe(process.pid);
    await contender.dispose();
    expect(() => process.kill(contender.processId ?? 0, 0)).toThrow("ESRCH");
  });

  test("that ends is reported, also before it was ready", async () => {
    const contender = await opened(ECHO);
    await expect(contender.generate([], 7)).rejects.toThrow("Python ended with code 3");
    await contender.dispose();
    await expect(opened("process.exit(5)")).rejects.toThrow("Python ended with code 5");
  });

  test("that is missing is an error of this contender only", async () => {
    const files = { python: join(ROOT, "no-such-python"), script: "", model: "" };
    const spec = { engine: "openvino", variant: "int8", module: "", files };
    const opening = open({ spec, threads: 1, maxSequences: 1, seed: 1, cacheFolder: undefined });
    await expect(opening).rejects.toThrow("ENOENT");
  });
});

test("leaves OpenVINO out with one line when Python is missing", async () => {
  const folder = await temporaryFolder();
  const model = await openModel(POCKET);
  const said: string[] = [];
  const places = {
    requirements: REQUIREMENTS,
    environment: join(folder, "environment"),
    models: folder,
    format: "int4" as const,
  };
  const python = join(folder, "no-such-python");
  const ready = await readyOpenVino(model, { ...places, python }, { say: (text) => said.push(text) });
  await model.close();
  expect(ready).toBeUndefined();
  expect(said).toHaveLength(2);
  expect(said[1]).toMatch(/^OpenVINO is left out: .*ENOENT.*$/);
});

test("ends an interrupted run while OpenVINO is prepared", async () => {
  const model = await openModel(POCKET);
  const folder = await temporaryFolder();
  const places = {
    requirements: REQUIREMENTS,
    environment: join(folder, "environment"),
    models: folder,
    format: "int4" as const,
  };
  const signal = AbortSignal.abort();
  await expect(readyOpenVino(model, places, { say: () => undefined, signal })).rejects.toThrow("aborted");
  await model.close();
});

test("pins packages, and uses an environment with all of them as it is", async () => {
  const requirements = await readFile(REQUIREMENTS, "utf8");
  expect(pinnedPackages(requirements)["openvino-genai"]).toMatch(/^\d+\.\d+/);
  const lines = requirements.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  expect(Object.keys(pinnedPackages(requirements))).toHaveLength(lines.length);

  const folder = await temporaryFolder();
  await writeFile(join(folder, "installed.txt"), requirements);
  const said: string[] = [];
  const options = {
    requirements: REQUIREMENTS,
    folder,
    python: "no-such-python",
    say: (text: string) => said.push(text),
  };
  expect(await pythonEnvironment(options)).toContain(folder);
  expect(said).toEqual([]);
  await writeFile(join(folder, "installed.txt"), "openvino==1.0\n");
  await expect(pythonEnvironment(options)).rejects.toThrow("ENOENT");
});

test("writes the same model in float32 for OpenVINO's exporter", async () => {
  const folder = await temporaryFolder();
  const dense = join(folder, "dense");
  await mkdir(dense);
  const pocket = await openModel(POCKET);
  await writeDenseFolder(pocket, dense);
  await pocket.close();
  await copyFile(join(POCKET, "tokenizer.json"), join(dense, "tokenizer.json"));
  const { cases } = golden("pocket") as { cases: { input_ids: number[] }[] };
  const ids = cases[0]?.input_ids ?? [];
  await using ours = await runningModel(POCKET);
  await using written = await runningModel(dense);
  expect((await promptLogits(written, ids)).fullLogits).toEqual((await promptLogits(ours, ids)).fullLogits);
});
