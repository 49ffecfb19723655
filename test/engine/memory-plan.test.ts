// Memory of an engine: the plan on all kinds of machines, and engines that keep to it.

import {
  type MemoryNeeds,
  type MemoryOptions,
  type MemoryPlan,
  type OpenOptions,
  planEngineMemory,
  planModelMemory,
  ReadMeEngine,
  resolveEngineOptions,
  totalBytes,
  weightSizes,
} from "@readme-moe/engine";
import { kvBytesPerToken, type KvPrecision } from "@readme-moe/kernel";
import { openModel, type ModelConfig } from "@readme-moe/model";
import { beforeAll, describe, expect, test } from "vitest";
import * as fc from "../support/fast-check.ts";
import { writeTinyAdapter } from "../support/tiny-adapter.ts";
import { complete } from "../support/complete.ts";
import { cases, greedy, POCKET, POCKET_HEAD } from "../support/pocket.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { writeTinyReadMe } from "../support/tiny-read-me.ts";

let config: ModelConfig;
beforeAll(async () => {
  const model = await openModel(POCKET);
  ({ config } = model);
  await model.close();
});

const GB = 1e9;
const SMALL = 640 * 2 ** 20;

/** Plans for a shape in a precision of keys and values, whatever memory is free. */
function planFor(options: Partial<MemoryOptions>, changes: Partial<ModelConfig> = {}, precision?: KvPrecision) {
  const shape = { ...config, ...changes };
  const bytesPerToken = kvBytesPerToken(shape, precision);
  const needs = { weightBytes: 0, processBytes: 0, bytesPerToken, contextTokens: shape.contextTokens };
  return planEngineMemory(needs, resolveEngineOptions(options));
}

describe("float16 holds twice as many tokens as float32 in the same bytes,", () => {
  test("if the bytes are given", () => {
    const bytesPerToken = kvBytesPerToken(config);
    const [fp32, fp16] = [undefined, "fp16" as const].map((one) =>
      planFor({ kvCacheBytes: 640 * bytesPerToken }, {}, one),
    );
    expect([fp32?.capacityTokens, fp16?.capacityTokens]).toEqual([640, 1280]);
    expect([fp32?.prefixCacheBytes, fp16?.prefixCacheBytes]).toEqual(Array(2).fill(160 * bytesPerToken));
  });

  test("and in the 512 MiB of a machine that nothing is known about", () => {
    const large = { numLayers: 64, contextTokens: 4096 };
    const [fp32, fp16] = [undefined, "fp16" as const].map((one) => planFor({ maxNumSeqs: 1024 }, large, one));
    expect(fp32?.kvCacheBytes).toBeCloseTo(512 << 20, -7);
    expect(fp16!.capacityTokens / fp32!.capacityTokens).toBeCloseTo(2, 2);
  });
});

test("int8 takes a byte for each number, and four for the scale of each key and value", () => {
  const { numLayers, numKvHeads, headSize } = config;
  expect(kvBytesPerToken(config, "int8")).toBe(2 * numLayers * numKvHeads * (headSize + 4));
  const kvCacheBytes = 128 * kvBytesPerToken(config, "int8");
  expect(planFor({ kvCacheBytes }, {}, "int8").capacityTokens).toBe(128);
});

test("one sequence of 4,096 tokens is planned on an unknown machine, however large its tokens are", () => {
  const plans = [undefined, "fp16" as const].map((one) => planFor({}, { numLayers: 2000, contextTokens: 8192 }, one));
  expect(plans.map(({ capacityTokens }) => capacityTokens)).toEqual([4096, 4096]);
  expect(plans[1]?.contextTokens).toBe(4096);
});

test("fewer than 64 tokens are rejected, and half the bytes are enough in float16", () => {
  const kvCacheBytes = 40 * kvBytesPerToken(config);
  expect(() => planFor({ kvCacheBytes })).toThrow(/`kvCacheBytes` to be at least/);
  expect(planFor({ kvCacheBytes }, {}, "fp16").capacityTokens).toBe(64);
});

/** Qwen2.5-Coder 1.5B in the blocks of its file. */
const CODER: MemoryNeeds = {
  weightBytes: 1.1 * GB,
  processBytes: 0.2 * GB,
  bytesPerToken: 28_672,
  contextTokens: 32_768,
};

test.each<[string, Partial<MemoryNeeds>, Partial<MemoryOptions>, number | undefined, Partial<MemoryPlan>]>([
  [
    "two conversations and the prompts of two agents on a machine with memory",
    {},
    {},
    16 * GB,
    { contextTokens: 32_768, capacityTokens: 65_536, prefixCacheBytes: 35_840 * 28_672, contextBound: "model" },
  ],
  [
    "one conversation before further prefixes",
    {},
    {},
    1.3 * GB + 2 * 40_960 * 28_672,
    { contextTokens: 32_768, capacityTokens: 32_768, prefixCacheBytes: 8192 * 28_672, contextBound: "model" },
  ],
  [
    "the prompts of two agents before a second conversation",
    {},
    {},
    1.3 * GB + 2 * (32_768 + 35_840 + 640) * 28_672,
    { capacityTokens: 32_768 + 640, prefixCacheBytes: 35_840 * 28_672 },
  ],
  [
    "512 MiB and a quarter where more than half of the free memory has to go",
    {},
    {},
    1.3 * GB + SMALL,
    { contextTokens: 18_688, capacityTokens: 18_688, prefixCacheBytes: 2 ** 27 - 1, contextBound: "memory" },
  ],
  [
    "the same on all machines that nothing is known about",
    {},
    {},
    undefined,
    { contextTokens: 18_688, capacityTokens: 18_688, prefixCacheBytes: 2 ** 27 - 1, contextBound: "memory" },
  ],
  [
    "the usual context of a model with a longer one",
    { contextTokens: 131_072 },
    {},
    32 * GB,
    { contextTokens: 32_768, capacityTokens: 65_536, modelContextTokens: 131_072, contextBound: "usual" },
  ],
  [
    "a longer context that is asked for",
    { contextTokens: 131_072 },
    { contextTokens: 100_000 },
    32 * GB,
    { contextTokens: 100_000, capacityTokens: 2 * 100_032, contextBound: "option" },
  ],
  [
    "a context that is asked for also where memory may not suffice",
    {},
    { contextTokens: 30_000 },
    1 * GB,
    { contextTokens: 30_000, capacityTokens: 30_016, contextBound: "option" },
  ],
  [
    "the context within which LongRoPE keeps its frequencies",
    { contextTokens: 131_072, usualContextTokens: 4096, bytesPerToken: 131_072 },
    {},
    32 * GB,
    { contextTokens: 4096, capacityTokens: 8192, contextBound: "usual" },
  ],
  [
    "32 whole contexts of a model whose tokens are small, as ever",
    { contextTokens: 1024, bytesPerToken: 3072, weightBytes: 5e6 },
    {},
    16 * GB,
    { contextTokens: 1024, capacityTokens: 32 * 1024, prefixCacheBytes: 8 * 1024 * 3072, contextBound: "model" },
  ],
  [
    "keys and values that are given, and a quarter for prefixes",
    {},
    { kvCacheBytes: 20_000 * 28_672 },
    64 * GB,
    { contextTokens: 19_968, capacityTokens: 19_968, prefixCacheBytes: (19_968 / 4) * 28_672, contextBound: "memory" },
  ],
  [
    "the rest of a given memory for what is not given",
    {},
    { memoryBytes: 1.3 * GB + 30_000 * 28_672, prefixCacheBytes: 10_000 * 28_672 },
    1,
    { contextTokens: 19_968, capacityTokens: 19_968, prefixCacheBytes: 10_000 * 28_672 },
  ],
])("plans %s", (_, changes, options, freeBytes, expected) => {
  expect(planEngineMemory({ ...CODER, ...changes }, resolveEngineOptions(options), freeBytes)).toMatchObject(expected);
});

const planCoder = (options: Partial<MemoryOptions>) => planEngineMemory(CODER, resolveEngineOptions(options));

test("a memory that is too small is refused with its parts, and the least one is taken", () => {
  const least = 1.3 * GB + 2048 * 28_672;
  expect(() => planCoder({ memoryBytes: least - 1 })).toThrow(
    new RangeError(
      `Expected \`memoryBytes\` (--memory) to be at least ${least}, 1100.0 MB of weights, 200.0 MB of the process, ` +
        `58.7 MB of keys and values for 2048 tokens; got \`${least - 1}\``,
    ),
  );
  expect(planCoder({ memoryBytes: least })).toMatchObject({ contextTokens: 2048, prefixCacheBytes: 0 });
  const [memoryBytes, kvCacheBytes, prefixCacheBytes] = [1.4 * GB, 640 * 28_672, 90_000_000];
  expect(() => planCoder({ memoryBytes, kvCacheBytes, prefixCacheBytes })).toThrow(
    "640 tokens, 90.0 MB of prefixes; got",
  );
  expect(() => planCoder({ memoryBytes, contextTokens: 32_768 })).toThrow("for 32768 tokens");
});

test("experts under a budget count as much as it holds", async () => {
  const path = `${await temporaryFolder()}/model`;
  await writeTinyReadMe(path);
  const model = await openModel(path);
  const sizes = weightSizes(model, "int8");
  const weightsWith = (expertCacheBytes: number): number =>
    planModelMemory(model, resolveEngineOptions({ precision: "int8", expertCacheBytes })).weightBytes;
  expect(weightsWith(30_000)).toBe(totalBytes(sizes) - sizes.experts + 30_000);
  expect(weightsWith(1e9)).toBe(totalBytes(sizes));
  await model.close();
});

const bytes = (max: number) => fc.integer({ min: 1, max });
const anyNeeds: fc.Arbitrary<MemoryNeeds> = fc.record(
  {
    weightBytes: bytes(8 * GB),
    processBytes: bytes(GB),
    bytesPerToken: bytes(500_000),
    contextTokens: fc.integer({ min: 2, max: 200_000 }),
    usualContextTokens: fc.constantFrom(undefined, 4096, 8192),
  },
  { requiredKeys: ["weightBytes", "processBytes", "bytesPerToken", "contextTokens"] },
);
const anyOptions: fc.Arbitrary<Partial<MemoryOptions>> = fc.record(
  {
    contextTokens: fc.integer({ min: 2, max: 200_000 }),
    kvCacheBytes: bytes(12 * GB),
    prefixCacheBytes: fc.integer({ min: 0, max: 4 * GB }),
    maxNumSeqs: fc.integer({ min: 1, max: 64 }),
  },
  { requiredKeys: [] },
);
const anyMemory = bytes(40 * GB);

interface Machine {
  readonly needs: MemoryNeeds;
  readonly options: Partial<MemoryOptions>;
  readonly memory: number;
  /** Whether the memory is given as an option, or free. */
  readonly isGiven: boolean;
}

/** Plans, or returns the error. */
function outcomeOn({ needs, options, memory, isGiven }: Machine): MemoryPlan | RangeError {
  const { contextTokens } = options;
  const fitting = contextTokens === undefined ? undefined : Math.min(contextTokens, needs.contextTokens);
  const given = { ...options, contextTokens: fitting, memoryBytes: isGiven ? memory : undefined };
  try {
    return planEngineMemory(needs, resolveEngineOptions(given), isGiven ? undefined : memory);
  } catch (error) {
    return error as RangeError;
  }
}

const anyMachine: fc.Arbitrary<Machine> = fc.record({
  needs: anyNeeds,
  options: anyOptions,
  memory: anyMemory,
  isGiven: fc.boolean(),
});

test("no plan exceeds the memory that it is for, and the user's numbers are kept", () => {
  fc.assert(
    fc.property(anyMachine, (machine) => {
      const plan = outcomeOn(machine);
      const { needs, options, memory, isGiven } = machine;
      if (plan instanceof Error) {
        expect(plan).toBeInstanceOf(RangeError);
        const [, name, least] = /^Expected `(\w+)`.* to be at least (\d+)/.exec(plan.message) ?? [];
        expect(["memoryBytes", "kvCacheBytes"]).toContain(name);
        if (name === "kvCacheBytes") {
          expect(Number(least)).toBe(64 * needs.bytesPerToken);
          return;
        }
        expect(memory).toBeLessThan(Number(least));
        expect(plan.message).toContain(`got \`${memory}\``);
        expect(outcomeOn({ ...machine, memory: Number(least) })).not.toBeInstanceOf(Error);
        return;
      }
      const { capacityTokens, contextTokens, kvCacheBytes, prefixCacheBytes } = plan;
      const all = needs.weightBytes + needs.processBytes + kvCacheBytes + prefixCacheBytes;
      if (isGiven) expect(all).toBeLessThanOrEqual(memory);
      else if (options.kvCacheBytes === undefined && options.contextTokens === undefined) {
        const fixed = options.prefixCacheBytes ?? 0;
        const beside = Math.max(0, memory - needs.weightBytes - needs.processBytes - fixed);
        const small = 1.25 * Math.max(512 * 2 ** 20, 4096 * needs.bytesPerToken);
        const least = 2048 * needs.bytesPerToken;
        const most = Math.max(beside / 2, Math.min(small, beside), least) + fixed;
        expect(kvCacheBytes + prefixCacheBytes).toBeLessThanOrEqual(most);
      }
      expect(capacityTokens % 64).toBe(0);
      expect(kvCacheBytes).toBe(capacityTokens * needs.bytesPerToken);
      expect(contextTokens).toBeGreaterThan(0);
      expect(contextTokens).toBeLessThanOrEqual(Math.min(capacityTokens, needs.contextTokens));
      expect(plan.contextBound === "model").toBe(contextTokens === needs.contextTokens);
      if (options.prefixCacheBytes !== undefined) expect(prefixCacheBytes).toBe(options.prefixCacheBytes);
      if (options.kvCacheBytes !== undefined) expect(kvCacheBytes).toBeLessThanOrEqual(options.kvCacheBytes);
      else if (options.contextTokens !== undefined) {
        expect(contextTokens).toBe(Math.min(options.contextTokens, needs.contextTokens));
      }
    }),
    { numRuns: 3000 },
  );
});

test("more memory never makes a part smaller, and what 640 MiB hold is planned wherever they are free", () => {
  fc.assert(
    fc.property(anyMachine, fc.integer({ min: 0, max: 4 * GB }), (machine, more) => {
      const [less, greater] = [outcomeOn(machine), outcomeOn({ ...machine, memory: machine.memory + more })];
      if (less instanceof Error) return;
      if (greater instanceof Error) throw greater;
      const usual = planEngineMemory(machine.needs, resolveEngineOptions({}));
      const { weightBytes, processBytes, bytesPerToken } = machine.needs;
      const room = weightBytes + processBytes + 1.25 * (usual.capacityTokens + 64) * bytesPerToken;
      const isPlain = !machine.isGiven && Object.keys(machine.options).length === 0 && machine.memory >= room;
      for (const before of [less, ...(isPlain ? [usual] : [])]) {
        for (const name of ["capacityTokens", "contextTokens", "kvCacheBytes", "prefixCacheBytes"] as const) {
          expect(greater[name], name).toBeGreaterThanOrEqual(before[name]);
        }
      }
    }),
    { numRuns: 3000 },
  );
});

test("a machine with memory has room for the whole usual context, and for prefixes", () => {
  fc.assert(
    fc.property(anyNeeds, fc.integer({ min: 1, max: 64 }), (needs, maxNumSeqs) => {
      const plan = planEngineMemory(needs, resolveEngineOptions({ maxNumSeqs }), 1e12);
      const usual = Math.min(needs.contextTokens, needs.usualContextTokens ?? 32_768);
      expect(plan.contextTokens).toBeGreaterThanOrEqual(usual);
      expect(plan.capacityTokens).toBeGreaterThanOrEqual(Math.min(maxNumSeqs, 2) * plan.contextTokens);
      const prefixTokens = Math.min(35_840, 2 * plan.contextTokens);
      expect(plan.prefixCacheBytes).toBeGreaterThanOrEqual(prefixTokens * needs.bytesPerToken);
    }),
  );
});

const open = (options: OpenOptions = {}): Promise<ReadMeEngine> =>
  ReadMeEngine.open(POCKET, { precision: "int8", threads: 1, isolation: "thread", ...options });

/** Memory of the process and the weights, which a plan starts from. */
async function ownBytes(): Promise<number> {
  const model = await openModel(POCKET);
  const plan = planModelMemory(model, resolveEngineOptions({ precision: "int8" }));
  await model.close();
  return plan.weightBytes + plan.processBytes;
}

describe("an engine", () => {
  test("has the model's own context by default, and says how much memory it plans", async () => {
    await using engine = await open();
    const { contextTokens, kvCapacityTokens, weightBytes, memory } = engine.info;
    expect(contextTokens).toBe(1024);
    const bytesPerToken = kvBytesPerToken(config, "fp16");
    expect(memory).toMatchObject({
      weightBytes,
      kvCacheBytes: kvCapacityTokens * bytesPerToken,
      prefixCacheBytes: 8192 * bytesPerToken,
      modelContextTokens: 1024,
      contextBound: "model",
    });
  });

  test("keeps to a given memory, also when it is opened again with less, and refuses what is too small", async () => {
    const bytesPerToken = kvBytesPerToken(config, "fp16");
    const memoryBytes = (await ownBytes()) + 1000 * bytesPerToken;
    await using engine = await open({ memoryBytes, contextTokens: 512, isolation: "process" });
    const { memory, kvCapacityTokens, modelVersion } = engine.info;
    expect(memory!.kvCacheBytes + memory!.prefixCacheBytes).toBeLessThanOrEqual(1000 * bytesPerToken);
    expect(kvCapacityTokens).toBeGreaterThanOrEqual(512);
    const asked = { prompt: cases[0]?.text ?? "", params: greedy };
    const before = await complete(engine, asked);
    engine.kill();
    await engine.whenFailed();
    await engine.restart();
    expect(engine.info).toMatchObject({ memory, kvCapacityTokens, modelVersion });
    expect((await complete(engine, asked)).ids).toEqual(before.ids);
    await expect(open({ memoryBytes: 10e6 })).rejects.toThrow(
      /`memoryBytes` \(--memory\) to be at least \d+, .*got `10000000`/,
    );
  });

  test("counts a draft head, its keys and values included", async () => {
    const plain = await open({});
    const { weightBytes = 0 } = plain.info;
    await plain.dispose();
    await using engine = await open({ draftHead: POCKET_HEAD });
    const { memory } = engine.info;
    // One layer of 256 channels, the fusion of three states and 4,096 outputs, and 64 MiB of keys and values.
    expect(memory?.weightBytes).toBeGreaterThan(weightBytes + 64e6 + 1.5e6);
    expect(memory?.weightBytes).toBeLessThan(weightBytes + 68e6 + 4e6);
  });

  test("refuses a budget of experts for a dense model without loras", async () => {
    await expect(open({ expertCacheBytes: 8e6 })).rejects.toThrow(
      new RegExp(
        "^Expected `expertCacheBytes` \\(--expert-cache\\) for a model with experts or with `loras`; .* is dense",
      ),
    );
    const legal = await writeTinyAdapter(`${await temporaryFolder()}/legal`, config);
    await using engine = await open({ expertCacheBytes: 8e6, loras: {} });
    await engine.addExpert("legal", legal);
    expect(engine.info.experts).toEqual(["none", "legal"]);
  });
});
