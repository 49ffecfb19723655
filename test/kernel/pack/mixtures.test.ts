// Mixtures in packed files: the same bytes whatever the names in the checkpoint, and rounding of experts with few tokens.

import { describeModel, layOut, type DecoderDescription } from "@readme-moe/kernel";
import { decodeFloats, type InputStatistics, type Model, type Precision } from "@readme-moe/model";
import { describe, expect, test } from "vitest";
import { withFewTokens } from "../../../packages/kernel/src/describe-model.ts";
import { inputFactors } from "../../../packages/kernel/src/pack/pack-product.ts";
import { packedBytes, packedParts } from "../../support/kernel/packed-bytes.ts";
import { mixtureFolder, withModel } from "../../support/mixture-folder.ts";
import type { ExpertNaming } from "../../support/random-mixture.ts";
import { seededRandom } from "../../support/random.ts";

const NAMINGS: readonly ExpertNaming[] = [
  "w1, w2, w3",
  "gate_proj, up_proj, down_proj",
  "gate_up_proj",
  "input_linear",
];

/** Statistics of one number per channel, which depend on the product's name alone. */
const STATISTICS: InputStatistics = {
  inputSquares: async (product) => {
    const random = seededRandom(product.length + 31 * product.charCodeAt(product.length - 1));
    return Float32Array.from({ length: product.endsWith(".down") ? 24 : 32 }, () => 0.1 + 20 * random() ** 4);
  },
};

function described(model: Model, precision: Precision): DecoderDescription {
  return describeModel(model, precision, STATISTICS);
}

describe.each(["fp32", "int8", "int4"] as const)("in %s", (precision) => {
  test("a mixture has the same bytes in every naming", async () => {
    const files: Uint8Array[] = [];
    for (const naming of NAMINGS) {
      await withModel(await mixtureFolder({}, { naming }), async (model) => {
        files.push(await packedBytes(described(model, precision)));
      });
    }
    for (const file of files) expect(Buffer.compare(file, files[0] as Uint8Array)).toBe(0);
  });

  test("its router is float32, and each expert has a format of the precision", async () => {
    await withModel(await mixtureFolder({ modelType: "qwen3_moe", denseLayers: [1] }), async (model) => {
      const { layers } = described(model, precision);
      expect(layers.map(({ mixture }) => mixture !== undefined)).toEqual([true, false, true]);
      expect(layers.map(({ shared }) => shared !== undefined)).toEqual([false, true, false]);
      const { router, experts, expertsPerToken, normalizesWeights } = layers[0]?.mixture ?? {};
      expect([router?.format, router?.numOut, router?.numIn]).toEqual(["float", 5, 32]);
      expect([expertsPerToken, normalizesWeights]).toEqual([2, false]);
      // Rows of 24 are no whole blocks.
      const [wide, narrow] = { fp32: ["float", "float"], int8: ["int8", "int8"], int4: ["INT4_MINIMUM_32", "int8"] }[
        precision
      ];
      for (const { gate, up, down } of experts ?? []) {
        expect([gate.format, up.format, down.format]).toEqual([wide, wide, narrow]);
      }
    });
  });
});

test("the router's weights are divided by the factors of its inputs", async () => {
  await withModel(await mixtureFolder(), async (model) => {
    const routerOf = async (precision: Precision): Promise<Float32Array> => {
      const { router } = described(model, precision).layers[1]?.mixture ?? {};
      return decodeFloats((await packedParts(router!)).weights, "F32");
    };
    const plain = await routerOf("fp32");
    const factors = await inputFactors(STATISTICS, "layers.1.ffn")();
    // Weights are `[input][64]`.
    expect(await routerOf("int8")).toEqual(plain.map((value, i) => value / (factors[Math.floor(i / 64)] as number)));
    expect(factors.some((factor) => Math.abs(factor - 1) > 0.1)).toBe(true);
    expect(await routerOf("int4")).toEqual(plain);
  });
});

test("an expert's layer is one range of the file, behind everything shared", async () => {
  await withModel(await mixtureFolder(), async (model) => {
    const description = described(model, "int8");
    const { places, numBytes } = layOut(description);
    const experts = description.layers.flatMap(({ mixture }) => mixture?.experts ?? []);
    const own = experts.flatMap(({ gate, up, down }) => [gate, up, down]);
    expect(Array.from(places.keys()).slice(-own.length)).toEqual(own);
    const starts = experts.map(({ gate }) => 64 * (places.get(gate)?.weights ?? NaN));
    const sizes = starts.map((start, index) => (starts[index + 1] ?? numBytes) - start);
    expect(new Set(sizes).size).toBe(1);
  });
});

/** Statistics of an expert, and of all tokens of its layer. */
const statistics = (own: readonly number[], down: readonly number[]): InputStatistics =>
  withFewTokens({
    inputSquares: async (product) => {
      if (product.endsWith(".2.down")) return Float32Array.from(down);
      return Float32Array.from(product.endsWith(".2") ? own : [64, 32, 160]);
    },
  });

describe("statistics of an expert", () => {
  test("without tokens are those of its layer", async () => {
    const none = statistics([0, 0, 0], [0, 0]);
    expect(Array.from(await none.inputSquares("layers.0.ffn.2"))).toEqual([2, 1, 5]);
    expect(Array.from(await none.inputSquares("layers.0.ffn.2.down"))).toEqual([0, 0]);
  });

  test("with few tokens are evened out, with many hardly changed", async () => {
    // A share of 1/32 of the inputs: as much as is assumed.
    const few = statistics([0, 8, 0], [6, 2]);
    expect(Array.from(await few.inputSquares("layers.0.ffn.2"))).toEqual([2, 9, 5]);
    expect(Array.from(await few.inputSquares("layers.0.ffn.2.down"))).toEqual([10, 6]);
    const many = statistics([32, 16, 80], [6, 2]);
    expect(Array.from(await many.inputSquares("layers.0.ffn.2.down"))).toEqual([6.25, 2.25]);
  });

  test("are as measured for products of all tokens", async () => {
    const others = statistics([1, 1, 1], [1, 1]);
    for (const product of ["layers.0.ffn", "layers.0.attention.qkv", "layers.0.ffn.down"]) {
      expect(Array.from(await others.inputSquares(product))).toEqual([64, 32, 160]);
    }
  });
});
