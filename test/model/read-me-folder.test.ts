import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, rm, truncate, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import {
  openModel,
  verifyModel,
  writeReadMeFolder,
  type ReadMeContent,
  type SafetensorsInput,
} from "@readme-moe/model";
import { describe, expect, test } from "vitest";
import { fingerprintOf } from "../../packages/model/src/cache/cached-data.ts";
import { fixture } from "../support/fixtures.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { sharedModel } from "../support/shared.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { tinyContent, writeTinyReadMe } from "../support/tiny-read-me.ts";

async function tinyFolder(): Promise<string> {
  const path = join(await temporaryFolder(), "model");
  await writeTinyReadMe(path);
  return path;
}

async function changeConfig(path: string, change: (config: Record<string, unknown>) => void): Promise<void> {
  const file = join(path, "config.json");
  const config = JSON.parse(await readFile(file, "utf8")) as Record<string, unknown>;
  change(config);
  await writeFile(file, JSON.stringify(config));
}

describe("a written folder", () => {
  test("opens with its contents, and holds each layer of an expert as one range of bytes", async () => {
    const model = await openModel(await tinyFolder());
    expect(model).toMatchObject({
      kind: "read-me",
      experts: { names: ["domain-0", "domain-1", "domain-2"], expertSizes: [24, 40], sharedSizes: [16, 0] },
      router: { config: { numExperts: 3, embeddingSize: 16, contextTokens: 256 } },
    });
    expect(model.weights.layers[0]?.shared).toBeDefined();
    expect(model.weights.layers[1]?.shared).toBeUndefined();
    await verifyModel(model);
    await model.close();
  });

  test("has a fingerprint of its contents, not of its path", async () => {
    const [cache, first, second] = [await temporaryFolder(), await tinyFolder(), await tinyFolder()];
    const [a, b] = [await openModel(first), await openModel(second)];
    const fingerprint = await a.fingerprint(cache);
    expect(await b.fingerprint(cache)).toBe(fingerprint);
    expect(await a.fingerprint(cache)).toBe(fingerprint); // remembered by now
    await writeTinyExpert(join(second, "experts", "1.safetensors"));
    // The open file may be the old or the new one, so no fingerprint would be right.
    await expectReadMeError(b.fingerprint(cache), "ERR_FILE_CORRUPT", "1.safetensors: has changed since");
    const again = await openModel(second);
    expect(await again.fingerprint(cache)).not.toBe(fingerprint);
    await Promise.all([a.close(), b.close(), again.close()]);
  });

  test("has the hash of a large file that a thread computes, once for those who wait together", async () => {
    const [cache, folder] = [await temporaryFolder(), await temporaryFolder()];
    const path = join(folder, "large");
    await writeFile(path, "large");
    await truncate(path, 64 * 2 ** 20 + 1);
    const fingerprint = await fingerprintOf([path]);
    const own = createHash("sha256")
      .update(await readFile(path))
      .digest("hex");
    const expected = createHash("sha256").update(own).digest("hex");
    expect(await Promise.all([fingerprint(cache), fingerprint(cache)])).toStrictEqual([expected, expected]);
    const other = await temporaryFolder();
    const failing = Promise.allSettled([fingerprint(other), fingerprint(other)]);
    await rm(path);
    for (const { status } of await failing) expect(status).toBe("rejected");
    expect(await readdir(other)).toStrictEqual([]);
  });

  test("has its fingerprint despite a file that a killed process left", async () => {
    const [cache, folder] = [await temporaryFolder(), await tinyFolder()];
    const left = join(cache, "fingerprints", ".readme-moe-left.tmp");
    await mkdir(join(cache, "fingerprints"));
    await writeFile(left, "ha");
    await utimes(left, 0, 0);
    const model = await openModel(folder);
    expect(await model.fingerprint(cache)).toMatch(/^[0-9a-f]{64}$/);
    expect(await readdir(join(cache, "fingerprints"))).not.toContain(".readme-moe-left.tmp");
    await model.close();
  });

  test("is refused in place of files, which stay unchanged", async () => {
    const path = await tinyFolder();
    const before = await readdir(path);
    await expectReadMeError(writeTinyReadMe(path, { seed: 2 }), "ERR_WRITE_FAILED", path, "not empty");
    expect(await readdir(path)).toEqual(before);
    const file = join(await temporaryFolder(), "file");
    await writeFile(file, "kept");
    await expectReadMeError(writeTinyReadMe(file), "ERR_WRITE_FAILED", file);
    expect(await readFile(file, "utf8")).toBe("kept");
    const empty = join(await temporaryFolder(), "empty");
    await mkdir(empty);
    await writeTinyReadMe(empty);
    await (await openModel(empty)).close();
  });

  test("leaves no folder when a tensor cannot be made", async () => {
    const folder = await temporaryFolder();
    const content = tinyContent();
    const broken: SafetensorsInput = {
      ...(content.tensors.experts[1]?.[0] as SafetensorsInput),
      bytes: () => Promise.reject(new Error("out of luck")),
    };
    const experts = content.tensors.experts.with(1, [broken]);
    const target = join(folder, "model");
    await expectReadMeError(
      writeReadMeFolder(target, { ...content, tensors: { ...content.tensors, experts } }),
      "ERR_WRITE_FAILED",
      "out of luck",
    );
    expect(await readdir(folder)).toEqual([]);
  });

  test("contains its copied files and documents", async () => {
    const target = join(await temporaryFolder(), "model");
    const copies = [join(fixture("families/llama-tied"), "generation_config.json")];
    await writeReadMeFolder(target, {
      ...tinyContent(),
      copies,
      documents: { "report.json": "{}", "README.md": "# Tiny" },
    });
    expect((await readdir(target)).toSorted()).toEqual([
      "README.md",
      "backbone.safetensors",
      "config.json",
      "experts",
      "generation_config.json",
      "report.json",
      "router.safetensors",
    ]);
  });
});

describe("an error of an incomplete folder names the fault", () => {
  const cases: Readonly<Record<string, [(path: string) => Promise<unknown>, string, string[]]>> = {
    "no config.json": [(path) => rm(join(path, "config.json")), "ERR_FILE_NOT_FOUND", ["config.json"]],
    "config.json cut short": [
      (path) => writeFile(join(path, "config.json"), '{"model_type"'),
      "ERR_FILE_CORRUPT",
      ["config.json"],
    ],
    "an expert missing": [
      (path) => rm(join(path, "experts", "2.safetensors")),
      "ERR_FILE_NOT_FOUND",
      ["2.safetensors"],
    ],
    "the router missing": [
      (path) => rm(join(path, "router.safetensors")),
      "ERR_FILE_NOT_FOUND",
      ["router.safetensors"],
    ],
    "a tensor of another shape": [
      (path) => changeConfig(path, (config) => (section(config)["expert_size"] = [24, 41])),
      "ERR_MODEL_INVALID",
      ["0.safetensors", "model.layers.1.mlp.gate_proj.weight", "[40, 32]", "[41, 32]"],
    ],
    "a tensor missing": [
      (path) => changeConfig(path, (config) => (section(config)["shared_size"] = [16, 8])),
      "ERR_MODEL_INVALID",
      ["backbone.safetensors", "model.layers.1.mlp.gate_proj.weight"],
    ],
    "a version from the future": [
      (path) => changeConfig(path, (config) => (section(config)["version"] = 2)),
      "ERR_MODEL_UNSUPPORTED",
      ["readme.version"],
    ],
    "too few names": [
      (path) => changeConfig(path, (config) => (section(config)["expert_names"] = ["a", "b"])),
      "ERR_MODEL_INVALID",
      ["expert_names"],
    ],
    "a name twice": [
      (path) => changeConfig(path, (config) => (section(config)["expert_names"] = ["a", "b", "a"])),
      "ERR_MODEL_INVALID",
      ["twice"],
    ],
    "more experts than files": [
      (path) =>
        changeConfig(path, (config) => {
          section(config)["num_experts"] = 4;
          section(config)["expert_names"] = ["a", "b", "c", "d"];
        }),
      "ERR_FILE_NOT_FOUND",
      ["3.safetensors"],
    ],
    "a hostile number of experts": [
      (path) => changeConfig(path, (config) => (section(config)["num_experts"] = 1e9)),
      "ERR_MODEL_UNSUPPORTED",
      ["experts"],
    ],
    "a router whose heads do not divide": [
      (path) =>
        changeConfig(path, (config) => ((section(config)["router"] as Record<string, unknown>)["num_heads"] = 3)),
      "ERR_MODEL_INVALID",
      ["heads"],
    ],
  };
  test.each(Object.entries(cases))("%s", async (_, [damage, code, parts]) => {
    const path = await tinyFolder();
    await damage(path);
    await expectReadMeError(openModel(path), code as "ERR_MODEL_INVALID", ...parts);
  });

  test("separated tensors of a layer, and weights that are no numbers, when it is verified", async () => {
    const content = tinyContent();
    const [first, ...rest] = content.tensors.experts as [SafetensorsInput[], ...SafetensorsInput[][]];
    const shuffled = [first.toReversed(), ...rest].map((inputs, index) => (index === 0 ? rotate(inputs) : inputs));
    await expectVerifyError({ ...content, tensors: { ...content.tensors, experts: shuffled } }, "not together");
    const [weight, ...others] = first as [SafetensorsInput, ...SafetensorsInput[]];
    const bytes = new Uint8Array(Float32Array.from({ length: 24 * 32 }, (_, index) => (index === 5 ? NaN : 0)).buffer);
    const poisoned = [[{ ...weight, bytes: async () => bytes }, ...others], ...rest];
    await expectVerifyError(
      { ...content, tensors: { ...content.tensors, experts: poisoned } },
      "holds NaN at element 5",
    );
  });
});

describe("a folder without Read-ME", () => {
  test("is refused without safetensors and GGUF, and with pickled weights", async () => {
    const path = await temporaryFolder();
    await writeFile(join(path, "config.json"), await readFile(join(fixture("families/qwen2"), "config.json")));
    await expectReadMeError(openModel(path), "ERR_FILE_NOT_FOUND", "model.safetensors");
    await writeFile(join(path, "pytorch_model.bin"), "");
    await expectReadMeError(openModel(path), "ERR_MODEL_UNSUPPORTED", "safetensors");
    await expectReadMeError(openModel(join(path, "nowhere")), "ERR_FILE_NOT_FOUND", "nowhere");
    await expect(openModel("")).rejects.toThrow(TypeError);
  });

  test.skipIf(sharedModel("smollm2-135m-instruct") === undefined)(
    "whose weights are one GGUF file opens that file (skipped where shared/models is absent)",
    async () => {
      const model = await openModel(sharedModel("smollm2-135m-instruct") as string);
      expect(model).toMatchObject({
        kind: "dense",
        config: { numLayers: 30, hasTiedEmbeddings: true, eosTokenIds: [2] },
      });
      await model.close();
    },
  );
});

function section(config: Record<string, unknown>): Record<string, unknown> {
  return config["readme"] as Record<string, unknown>;
}

async function expectVerifyError(content: ReadMeContent, part: string): Promise<void> {
  const path = join(await temporaryFolder(), "model");
  await writeReadMeFolder(path, content);
  const model = await openModel(path);
  await expectReadMeError(verifyModel(model), "ERR_MODEL_INVALID", "0.safetensors", part);
  await model.close();
}

/** Moves layer 1's first tensor to the end, after layer 0. */
function rotate(inputs: readonly SafetensorsInput[]): SafetensorsInput[] {
  return [...inputs.slice(1), inputs[0] as SafetensorsInput];
}

async function writeTinyExpert(path: string): Promise<void> {
  const bytes = await readFile(path);
  bytes[bytes.length - 1] = (bytes.at(-1) as number) ^ 1;
  await writeFile(path, bytes);
}
