// Short names, hub ids and paths: what a name stands for, and that the table of short names is consistent.

import { describe, expect, test } from "vitest";
import { KNOWN_MODELS, type KnownModel, modelName, parametersOf, parseModelName, sourceFor } from "@readme-moe/model";
import { repositoryNameProblem } from "../../packages/model/src/files/file-name.ts";
import { fullName } from "../../packages/model/src/names/parse-name.ts";
import { PRESETS } from "../../packages/model/src/names/preset.ts";
import { resolveDownload } from "../../packages/model/src/hub/options.ts";
import * as fc from "../support/fast-check.ts";

const nothing = (): boolean => false;

/** Counts of published checkpoints, from their model cards and the headers of their files. */
const PUBLISHED: Readonly<Record<string, number>> = {
  "smollm2:135m": 134_515_008,
  "smollm2:360m": 361_821_120,
  "smollm2:1.7b": 1_711_376_384,
  "smollm3:3b": 3_075_098_624,
  "qwen3:0.6b": 596_049_920,
  "qwen3:1.7b": 1_720_574_976,
  "qwen3:4b": 4_022_468_096,
  "qwen3-embedding:0.6b": 595_776_512,
  "qwen3-reranker:0.6b": 595_776_512,
  "qwen2.5:0.5b": 494_032_768,
  "qwen2.5:1.5b": 1_543_714_304,
  "qwen2.5-coder:0.5b": 494_032_768,
  "qwen2.5-coder:1.5b": 1_543_714_304,
  "qwen2.5-coder:7b": 7_615_616_512,
  "llama3.2:1b": 1_235_814_400,
  "llama3.2:3b": 3_212_749_824,
  "gemma3:270m": 268_098_176,
  "gemma3:270m-base": 268_098_176,
  "gemma3:1b": 999_885_952,
  "granite3.3:2b": 2_533_539_840,
  "olmo2:1b": 1_484_916_736,
  "phi4-mini:3.8b": 3_836_021_760,
  "tinyllama:1.1b": 1_100_048_384,
  "mistral:7b": 7_248_023_552,
  "all-minilm:22m": 22_713_216,
  "bge-small:33m": 33_360_000,
  "gte-small:33m": 33_360_000,
  "snowflake-arctic-embed:33m": 33_212_160,
  "e5-small:118m": 117_653_760,
  "all-mpnet:109m": 109_486_464,
  "nomic-embed-text:137m": 136_731_648,
  "bge-reranker:278m": 278_044_417,
};

function isPreset({ name }: KnownModel): boolean {
  return PRESETS.some((preset) => preset.name === name.replace(":", "-"));
}

describe("the table of short names", () => {
  test("has one entry for each name, also when case and separators do not count", () => {
    const names = KNOWN_MODELS.flatMap((model) => [
      model.name,
      ...model.sources.map((source) => fullName(model, source)),
    ]).map((name) => name.toLowerCase().replaceAll(":", "-"));
    expect(new Set(names).size).toBe(names.length);
    expect(Object.keys(PUBLISHED).toSorted()).toEqual(KNOWN_MODELS.map(({ name }) => name).toSorted());
  });

  test.each(KNOWN_MODELS)("$name has the published number of parameters, within 0.02 %", (model) => {
    expect(Math.abs(parametersOf(model) / (PUBLISHED[model.name] ?? 0) - 1)).toBeLessThan(2e-4);
  });

  test.each(KNOWN_MODELS)("$name has sources that the hub's rules allow, of sizes that fit their types", (model) => {
    const { shape } = model;
    // Some checkpoints store the head although it is the embedding table.
    const spare = shape.isTied ? shape.vocabSize * shape.hiddenSize : 0;
    const bits = { f32: [32, 32], f16: [16, 16], bf16: [16, 16], q8_0: [8.4, 8.8], q4_k_m: [4.4, 8] } as const;
    for (const { repository, file, weights, bytes } of model.sources) {
      expect(resolveDownload(repository, { file })).toMatchObject({ name: repository, revision: "main", file });
      expect(file === undefined).toBe(weights.endsWith("16") || weights.endsWith("32"));
      if (file !== undefined) {
        expect(repositoryNameProblem(file)).toBeUndefined();
        expect(file.toLowerCase()).toContain(weights);
      }
      const [least, most] = bits[weights];
      expect(bytes).toBeGreaterThan((0.99 * parametersOf(model) * least) / 8);
      // Metadata with the vocabulary takes up to 20 MB.
      expect(bytes).toBeLessThan((1.01 * (parametersOf(model) + spare) * most) / 8 + 20e6);
    }
    const order = ["f32", "f16", "bf16", "q8_0", "q4_k_m"];
    const ranks = model.sources.map(({ weights }) => order.indexOf(weights));
    expect(ranks).toEqual(ranks.toSorted((a, b) => a - b));
  });

  test.each(KNOWN_MODELS)("$name needs no token, in any precision, unless its name says so", (model) => {
    // A preset comes from another place when the hub refuses.
    if (isPreset(model)) return;
    for (const precision of ["fp32", "int8", "int4"] as const) {
      expect(sourceFor(model, precision).isGated).not.toBe(true);
    }
  });

  test("has an entry for every preset", () => {
    const names = KNOWN_MODELS.map(({ name }) => name.replace(":", "-"));
    for (const { name } of PRESETS) expect(names).toContain(name);
  });

  test("has the file of the hub whose bytes a preset's packages have", () => {
    for (const { name, hubId, hubFile, packaged } of PRESETS.filter((preset) => preset.hubFile !== undefined)) {
      const source = KNOWN_MODELS.find((model) => model.name.replace(":", "-") === name)?.sources[0];
      expect(source).toMatchObject({ repository: hubId, file: hubFile, bytes: packaged.fileBytes });
      expect(packaged.file).toBe(hubFile);
    }
  });
});

const of = (...sources: KnownModel["sources"]): KnownModel => ({ ...(KNOWN_MODELS[0] as KnownModel), sources });

function choices(model: KnownModel): readonly string[] {
  return (["fp32", "int8", "int4"] as const).map((precision) => sourceFor(model, precision).weights);
}

test("a precision takes the smallest weights that lose nothing in it, and never those that need a token", () => {
  const bytes = 1;
  const bf16 = { weights: "bf16", repository: "a/full", bytes } as const;
  const q8 = { weights: "q8_0", repository: "a/eight", file: "x.Q8_0.gguf", bytes } as const;
  const q4 = { weights: "q4_k_m", repository: "a/four", file: "x.Q4_K_M.gguf", bytes } as const;
  expect(choices(of(bf16, q8, q4))).toEqual(["bf16", "q8_0", "q4_k_m"]);
  expect(choices(of(bf16, q8))).toEqual(["bf16", "q8_0", "q8_0"]);
  expect(choices(of(bf16, q4))).toEqual(["bf16", "bf16", "q4_k_m"]);
  expect(choices(of({ ...bf16, isGated: true }, q8, q4))).toEqual(["q8_0", "q8_0", "q4_k_m"]);
  expect(choices(of({ ...bf16, isGated: true }))).toEqual(["bf16", "bf16", "bf16"]);
  expect(sourceFor(of(bf16, q8, q4))).toBe(bf16);
});

describe("a name stands for", () => {
  test.each([
    ["qwen3:0.6b", "qwen3:0.6b", undefined],
    ["Qwen3:0.6B", "qwen3:0.6b", undefined],
    ["qwen3-0.6b", "qwen3:0.6b", undefined],
    ["smollm2-135m", "smollm2:135m", undefined],
    ["qwen3:0.6b-q8_0", "qwen3:0.6b", "q8_0"],
    ["qwen3:4b-Q4_K_M", "qwen3:4b", "q4_k_m"],
    ["llama3.2:1b-bf16", "llama3.2:1b", "bf16"],
    ["qwen2.5-coder:1.5b", "qwen2.5-coder:1.5b", undefined],
    ["Qwen2.5-Coder-0.5B", "qwen2.5-coder:0.5b", undefined],
    ["qwen2.5-coder:1.5b-q4_K_M", "qwen2.5-coder:1.5b", "q4_k_m"],
    ["mistral", "mistral:7b", undefined],
    ["phi4-mini", "phi4-mini:3.8b", undefined],
    ["phi4-mini:latest", "phi4-mini:3.8b", undefined],
    ["all-minilm", "all-minilm:22m", undefined],
    ["nomic-embed-text:latest", "nomic-embed-text:137m", undefined],
    ["snowflake-arctic-embed-33m", "snowflake-arctic-embed:33m", undefined],
    ["gte-small:33m-f16", "gte-small:33m", "f16"],
  ])("a known model: %s", (name, model, weights) => {
    const parsed = parseModelName(name, nothing);
    expect(parsed).toMatchObject({ kind: "known", model: { name: model } });
    expect(parsed.kind === "known" && parsed.source?.weights).toBe(weights);
  });

  const hub = { kind: "hub", revision: undefined, file: undefined, quantization: undefined };
  test.each([
    ["org/name", { repository: "org/name" }],
    ["org/name@v1.0", { repository: "org/name", revision: "v1.0" }],
    ["org/name@refs/pr/1", { repository: "org/name", revision: "refs/pr/1" }],
    ["org/name:file.Q4_0.gguf", { repository: "org/name", file: "file.Q4_0.gguf" }],
    ["org/name@main:sub/file.gguf", { repository: "org/name", revision: "main", file: "sub/file.gguf" }],
    ["org/name:Q8_0", { repository: "org/name", quantization: "Q8_0" }],
    ["org/name:latest", { repository: "org/name" }],
    ["hf.co/org/name:Q8_0", { repository: "org/name", quantization: "Q8_0" }],
    ["hf:org/name", { repository: "org/name" }],
    ["hf://org/name", { repository: "org/name" }],
    ["https://huggingface.co/org/name", { repository: "org/name" }],
    ["https://huggingface.co/org/name/tree/main", { repository: "org/name", revision: "main" }],
    [
      "https://huggingface.co/org/name/resolve/refs%2Fpr%2F1/a%20b.gguf?download=true",
      { repository: "org/name", revision: "refs/pr/1", file: "a b.gguf" },
    ],
    ["huggingface.co/org/name/blob/main/q/x.gguf", { repository: "org/name", revision: "main", file: "q/x.gguf" }],
  ])("a repository of the hub: %s", (name, expected) => {
    expect(parseModelName(name, nothing)).toEqual({ ...hub, ...expected });
  });

  test.each(["./qwen3", "../a/b", "/abs/path", "~/model", "C:\\models\\x", "c:/x", "a/b/c", "model.gguf", "a\\b", "."])(
    "a path, there or not: %s",
    (name) => {
      expect(parseModelName(name, nothing)).toEqual({ kind: "path", path: name });
    },
  );

  test.each(["qwen3:0.6b", "org/name", "smollm2-135m", "nonsense"])("what exists under this name first: %s", (name) => {
    expect(parseModelName(name, (path) => path === name)).toEqual({ kind: "path", path: name });
  });

  test.each([
    ["qwen3:0.6", ["qwen3:0.6b"]],
    ["qwen3:06b", ["qwen3:0.6b"]],
    ["smolm2:135m", ["smollm2:135m"]],
    ["qwen3", ["qwen3:0.6b", "qwen3:1.7b", "qwen3:4b"]],
    ["qwen3:0.6b-q5_k_m", ["qwen3:0.6b-bf16", "qwen3:0.6b-q8_0"]],
    ["smolm2", ["smollm2:135m", "smollm2:360m", "smollm2:1.7b"]],
    ["llama", ["llama3.2:1b", "llama3.2:3b"]],
    ["qwen2.5-coder", ["qwen2.5-coder:0.5b", "qwen2.5-coder:1.5b", "qwen2.5-coder:7b"]],
    ["qwen2.5-coder:1.5", ["qwen2.5-coder:1.5b"]],
    ["something-else-entirely", []],
    ["q", []],
    ["", []],
  ])("nothing, with similar names first: %s", (name, near) => {
    const parsed = parseModelName(name, nothing);
    expect(parsed.kind).toBe("unknown");
    const found = parsed.kind === "unknown" ? parsed.near : [];
    expect(near.length === 0 ? found : found.slice(0, near.length)).toEqual(near);
  });

  test("something for any text, in time that its length bounds", () => {
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.stringMatching(/^[\w./:@~\\-]{0,200}$/)), (name) => {
        const parsed = parseModelName(name, nothing);
        expect(["path", "known", "hub", "unknown"]).toContain(parsed.kind);
        if (parsed.kind === "path") expect(parsed.path).toBe(name);
        if (parsed.kind === "hub") expect(name).toContain(parsed.repository);
      }),
    );
  });
});

test.each([
  ["/models/SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct.Q4_1"],
  ["/models/my-model/", "my-model"],
  ["smollm2:135m", "smollm2:135m"],
  ["Qwen/Qwen3-0.6B", "Qwen3-0.6B"],
  ["/hub/models--Qwen--Qwen3-0.6B/snapshots/0a1b", "Qwen3-0.6B"],
  ["/hub/models--Qwen--Qwen3-0.6B-GGUF/snapshots/0a1b/Qwen3-0.6B-Q8_0.gguf", "Qwen3-0.6B-Q8_0"],
])("%s is offered as %s", (given, name) => {
  expect(modelName(given)).toBe(name);
});
