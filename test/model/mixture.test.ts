// Mixtures with a router in each layer: one model in every naming of its checkpoints, and as GGUF files.

import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { openModel, type ModelWeights, writeSafetensors } from "@readme-moe/model";
import { describe, expect, test } from "vitest";
import { SafetensorsFile } from "../../packages/model/src/safetensors/safetensors-file.ts";
import { plainLogits } from "../oracles/plain-decoder.ts";
import * as fc from "../support/fast-check.ts";
import { fixture, fixtureNames, golden } from "../support/fixtures.ts";
import { writeModelGguf } from "../support/gguf/convert-model.ts";
import { mixtureFolder, withModel } from "../support/mixture-folder.ts";
import { type ExpertNaming, type MixtureShape, TINY_MIXTURE } from "../support/random-mixture.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { largestDifference } from "../support/running-model.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

interface Golden {
  readonly cases: readonly { readonly input_ids: readonly number[]; readonly last_logits: readonly number[] }[];
}

const NAMINGS: readonly ExpertNaming[] = [
  "w1, w2, w3",
  "gate_proj, up_proj, down_proj",
  "gate_up_proj",
  "input_linear",
];

/** All numbers of a model's layers, in the order of the description. */
async function numbersOf({ layers }: ModelWeights): Promise<readonly Float32Array[]> {
  const numbers: Float32Array[] = [];
  for (const { mixture, experts } of layers) {
    if (mixture) numbers.push(await mixture.router.store.readFloats(mixture.router.name));
    for (const { gate, up, down } of mixture?.experts ?? experts) {
      for (const { weight } of [gate, up, down]) numbers.push(await weight.store.readFloats(weight.name));
    }
  }
  return numbers;
}

describe.each(fixtureNames("mixtures"))("%s", (name) => {
  test("plain loops over the model's description give PyTorch's logits", async () => {
    await withModel(fixture(name), async (model) => {
      expect(model.kind).toBe("mixture");
      expect(model.experts.names).toEqual(["mixture"]);
      for (const { input_ids: ids, last_logits: expected } of (golden(name) as Golden).cases.slice(0, 3)) {
        const logits = await plainLogits(model, ids, new Uint16Array(ids.length));
        expect(largestDifference(logits.at(-1) ?? [], expected)).toBeLessThan(1e-4);
      }
    });
  });

  test("is the same model as a GGUF file", async () => {
    const path = join(await temporaryFolder(), "model.gguf");
    await withModel(fixture(name), async (model) => {
      await writeModelGguf(model, path, "F32");
      await withModel(path, async (file) => {
        expect(file.kind).toBe("mixture");
        const { rmsNormEpsilon, ...config } = file.config;
        expect(rmsNormEpsilon).toBeCloseTo(model.config.rmsNormEpsilon, 10);
        const { rmsNormEpsilon: _, intermediateSize, ...own } = model.config;
        expect(config.mixture).toEqual(own.mixture);
        expect(config.layers).toEqual(own.layers);
        expect([config.modelType, config.intermediateSize]).toEqual([own.modelType, intermediateSize]);
        expect(await numbersOf(file.weights)).toEqual(await numbersOf(model.weights));
      });
    });
  });
});

test("a model is the same in every naming, in one file and in shards", async () => {
  const shape = fc.record({
    modelType: fc.constantFrom("mixtral", "qwen3_moe", "olmoe", "granitemoe"),
    seed: fc.nat(2 ** 31 - 1),
    numLayers: fc.integer({ min: 1, max: 3 }),
    numExperts: fc.integer({ min: 1, max: 9 }),
    expertSize: fc.integer({ min: 1, max: 40 }),
    hiddenSize: fc.constantFrom(8, 24, 32),
    isDense: fc.boolean(),
    numShards: fc.integer({ min: 1, max: 4 }),
  });
  await fc.assert(
    fc.asyncProperty(shape, async ({ isDense, numShards, ...sizes }) => {
      const hasDense = isDense && sizes.modelType === "qwen3_moe" && sizes.numLayers > 1;
      const mixture = {
        ...TINY_MIXTURE,
        ...sizes,
        expertsPerToken: Math.ceil(sizes.numExperts / 2),
        denseLayers: hasDense ? [sizes.numLayers - 2] : [],
      };
      let first: readonly Float32Array[] | undefined;
      for (const naming of NAMINGS) {
        await withModel(await mixtureFolder(mixture, { naming, numShards }), async (model) => {
          expect(model.config.mixture).toMatchObject({
            numExperts: mixture.numExperts,
            expertsPerToken: mixture.expertsPerToken,
            expertSize: mixture.expertSize,
          });
          const isMixture = model.weights.layers.map((layer) => layer.mixture !== undefined);
          expect(isMixture).toEqual(model.config.layers.map((layer) => layer.isMixture));
          expect(isMixture.flatMap((is, layer) => (is ? [] : [layer]))).toEqual(mixture.denseLayers);
          const numbers = await numbersOf(model.weights);
          first ??= numbers;
          expect(numbers).toEqual(first);
        });
      }
    }),
    { numRuns: 12 },
  );
});

test("the experts of a token, and whether their weights sum to 1, change the logits", async () => {
  const ids = [3, 17, 9, 60];
  const last = async (changes: Partial<MixtureShape>): Promise<Float64Array> =>
    withModel(await mixtureFolder({ ...TINY_MIXTURE, modelType: "olmoe", ...changes }), async (model) => {
      const logits = await plainLogits(model, ids, new Uint16Array(ids.length));
      return logits.at(-1) as Float64Array;
    });
  const plain = await last({});
  expect(largestDifference(await last({}), plain)).toBe(0);
  expect(largestDifference(await last({ normalizesWeights: true }), plain)).toBeGreaterThan(0.05);
  expect(largestDifference(await last({ expertsPerToken: 3 }), plain)).toBeGreaterThan(0.05);
  // With all experts, normalising changes nothing.
  const all = { expertsPerToken: TINY_MIXTURE.numExperts };
  const difference = largestDifference(await last({ ...all, normalizesWeights: true }), await last(all));
  expect(difference).toBeLessThan(1e-12);
});

type Tensors = Map<string, { readonly shape: readonly number[]; readonly bytes: Uint8Array }>;

/** Writes a folder whose tensors `change` has changed. */
async function changedFolder(naming: ExpertNaming, change: (tensors: Tensors) => void): Promise<string> {
  const path = await mixtureFolder(TINY_MIXTURE, { naming });
  const file = join(path, "model.safetensors");
  const store = await SafetensorsFile.open(file);
  const tensors: Tensors = new Map();
  for (const name of store.names) {
    tensors.set(name, { shape: store.info(name).shape, bytes: await store.readBytes(name) });
  }
  await store.close();
  change(tensors);
  const inputs = Array.from(tensors, ([name, { shape, bytes }]) => ({ name, shape, bytes: async () => bytes }));
  await writeSafetensors(
    file,
    inputs.map((input) => ({ ...input, type: "F32" as const })),
  );
  return path;
}

describe("a damaged mixture is refused with the name of", () => {
  test("a missing router", async () => {
    const path = await changedFolder("w1, w2, w3", (all) => all.delete("model.layers.1.block_sparse_moe.gate.weight"));
    await expectReadMeError(openModel(path), "ERR_MODEL_INVALID", "has no router model.layers.1.", "mlp.gate.weight");
  });

  test("a missing expert", async () => {
    const name = "model.layers.2.mlp.experts.4.up_proj.weight";
    const path = await changedFolder("gate_proj, up_proj, down_proj", (all) => all.delete(name));
    await expectReadMeError(openModel(path), "ERR_MODEL_INVALID", name);
  });

  test("a stack of too few experts", async () => {
    const name = "model.layers.0.mlp.experts.down_proj";
    const path = await changedFolder("gate_up_proj", (all) => {
      const { shape, bytes } = all.get(name)!;
      const [numExperts = 0, ...rest] = shape;
      all.set(name, { shape: [numExperts - 1, ...rest], bytes: bytes.subarray(0, (bytes.length / 5) * 4) });
    });
    await expectReadMeError(openModel(path), "ERR_MODEL_INVALID", name, "[4, 32, 24]", "[5, 32, 24]");
  });

  test("a router of other width", async () => {
    const name = "model.layers.0.block_sparse_moe.router.layer.weight";
    const path = await changedFolder("input_linear", (all) => {
      const { bytes } = all.get(name)!;
      all.set(name, { shape: [32, 5], bytes });
    });
    await expectReadMeError(openModel(path), "ERR_MODEL_INVALID", name, "[32, 5]", "[5, 32]");
  });
});

test("a Read-ME section over a mixture is refused", async () => {
  const path = await mixtureFolder(TINY_MIXTURE);
  const config = JSON.parse(await readFile(join(path, "config.json"), "utf8")) as object;
  const readme = { version: 1, num_experts: 1, expert_size: 4 };
  await writeFile(join(path, "config.json"), JSON.stringify({ ...config, readme }));
  await expectReadMeError(openModel(path), "ERR_MODEL_UNSUPPORTED", "`readme` over a mixture");
});
