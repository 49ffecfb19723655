// Adapters as PEFT reads them: PyTorch's logits of test/fixtures/lora, by the plain decoder over merged weights.

import { basename, dirname, join } from "node:path";
import { openLora, openModel } from "@readme-moe/model";
import { describe, expect, test } from "vitest";
import { mergedModel } from "../oracles/merged-model.ts";
import { plainLogits } from "../oracles/plain-decoder.ts";
import { fixture, fixtureNames, golden } from "../support/fixtures.ts";
import { largestDifference } from "../support/running-model.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { moduleNames, moduleShape, type TinyAdapter, writeTinyAdapter } from "../support/tiny-adapter.ts";

interface Golden {
  readonly cases: readonly {
    readonly input_ids: readonly number[];
    readonly last_logits: readonly number[];
    readonly moved: number;
  }[];
}

const ADAPTERS = [...fixtureNames("lora/llama-tied"), ...fixtureNames("lora/qwen3")];

describe.each(ADAPTERS)("%s", (name) => {
  test("means what PEFT computes with it", async () => {
    const model = await openModel(fixture(`families/${basename(dirname(name))}`));
    const expert = await openLora(fixture(name), basename(name), model);
    const merged = await mergedModel(model, expert);
    const { cases } = golden(name) as Golden;
    expect(cases.map((one) => one.input_ids.length)).toEqual([1, 7, 40]);
    for (const { input_ids: ids, last_logits: logits, moved } of cases) {
      const none = ids.map(() => 0);
      const [plain, changed] = [await plainLogits(model, ids, none), await plainLogits(merged, ids, none)];
      expect(largestDifference(changed.at(-1) ?? [], logits)).toBeLessThan(1e-3);
      const differences = plain.map((row, token) => largestDifference(changed[token] ?? [], row));
      expect(Math.max(...differences)).toBeCloseTo(moved, 1);
    }
    await Promise.all([model.close(), expert.close()]);
  });
});

test("says what an adapter holds", async () => {
  const model = await openModel(fixture("families/qwen3"));
  const expert = await openLora(fixture("lora/qwen3/pattern-r2-r6"), "legal", model);
  expect(expert).toMatchObject({ name: "legal", maxRank: 6, head: undefined });
  expect(expert.layers.map((layer) => Object.keys(layer).toSorted())).toEqual(
    Array.from({ length: 3 }, () => ["attentionOutput", "down", "query"]),
  );
  expect(expert.layers[0]?.down).toMatchObject({ rank: 6, scale: 2 });
  expect(expert.layers[2]?.query).toMatchObject({ rank: 2, scale: 2 });
  expect(expert.numParameters).toBe(3 * (6 * (160 + 64) + 2 * (128 + 64) + 2 * (64 + 128)));
  expect(expert.files.map((file) => basename(file))).toEqual(["adapter_config.json", "adapter_model.safetensors"]);
  await Promise.all([model.close(), expert.close()]);
});

/** Ranks from 1 to 5. */
function rankOf(module: string): number {
  return 1 + (module.length % 5);
}

describe.each(fixtureNames("families"))("over %s", (family) => {
  test("an adapter of every module and float type is found whole", async () => {
    const base = await openModel(fixture(family));
    const { config } = base;
    const modules = [...moduleNames(config), "lm_head"];
    const adapter: TinyAdapter = {
      modules: [...new Set(modules.map((name) => name.replace(/^model\.layers\.\d+\./, "")))],
      rankOf,
      config: { rank_pattern: Object.fromEntries(modules.map((name) => [name, rankOf(name)])) },
    };
    const numbers: Float32Array[][] = [];
    const root = await temporaryFolder();
    for (const [type, adapterName] of [["F32"], ["F16", "default"], ["BF16", "a-b"]] as const) {
      const folder = await writeTinyAdapter(join(root, type), config, {
        ...adapter,
        type,
        ...(adapterName && { adapterName }),
      });
      const expert = await openLora(folder, type, base);
      const refs = [...expert.layers.flatMap((layer) => Object.values(layer)), ...(expert.head ? [expert.head] : [])];
      expect(refs.length).toBe(modules.length);
      expect(expert.maxRank).toBe(Math.max(...modules.map(rankOf)));
      const sizes = modules.map((name) => rankOf(name) * (moduleShape(config, name)[0] + moduleShape(config, name)[1]));
      expect(expert.numParameters).toBe(sizes.reduce((sum, size) => sum + size, 0));
      expect(refs.every(({ rank, scale }) => scale === 8 / rank)).toBe(true);
      numbers.push(await Promise.all(refs.flatMap(({ a, b }) => [a, b]).map((ref) => ref.store.readFloats(ref.name))));
      await expert.close();
    }
    const [exact = [], ...rounded] = numbers;
    for (const [index, tolerance] of [2 ** -11, 2 ** -8].entries()) {
      for (const [at, values] of exact.entries()) {
        values.forEach((value, i) => {
          const difference = Math.abs((rounded[index]?.[at]?.[i] ?? NaN) - value);
          if (!(difference <= tolerance * Math.abs(value) + 1e-7)) throw new Error(`${difference} off at ${at}, ${i}`);
        });
      }
    }
    await base.close();
  });
});
