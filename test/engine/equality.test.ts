// A sequence's numbers do not depend on other sequences: SmolLM2 through the engine, with log-probabilities compared
// bit for bit. (engine-core.test.ts does the same for Read-ME models, with every order of operations.)

import type { GenerateRequest } from "@readme-moe/core";
import { ReadMeEngine, type OpenOptions } from "@readme-moe/engine";
import { describe, expect, test } from "vitest";
import { complete, type Completed } from "../support/complete.ts";
import { golden } from "../support/fixtures.ts";
import { RUNS_LONG_TESTS } from "../support/long-tests.ts";
import { sharedModel } from "../support/shared.ts";

interface Golden {
  readonly cases: readonly { readonly text: string; readonly input_ids: readonly number[] }[];
}

const path = sharedModel("smollm2-135m-instruct");
const { cases } = golden("smollm2-135m-instruct") as Golden;
// Sixteen prompts of 5 to 330 tokens; the long ones run in three chunks, and four of them begin alike.
const LONG = cases.flatMap((one) => one.input_ids);
const PROMPTS = [
  ...cases.map((one) => one.input_ids),
  ...[10, 90, 150, 200].map((extra, index) => [...LONG.slice(0, 140), ...LONG.slice(index, index + extra)]),
];
const ALL_REQUESTS: readonly GenerateRequest[] = PROMPTS.map((prompt, index) => ({
  prompt,
  params: {
    maxTokens: 6 + (index % 5),
    logprobs: 4,
    ignoreEos: true,
    ...(index % 2 === 0 ? { temperature: 0 } : { temperature: 0.9, topP: 0.95, topK: 50, seed: index }),
  },
}));

/** Sixteen requests, or half of the short ones and all long ones. */
const REQUESTS = ALL_REQUESTS.filter((_, index) => RUNS_LONG_TESTS || index % 4 < 2 || index >= cases.length);

async function withSmolLm2<Result>(
  options: OpenOptions,
  use: (engine: ReadMeEngine) => Promise<Result>,
): Promise<Result> {
  const engine = await ReadMeEngine.open(path as string, {
    precision: "fp32",
    threads: 2,
    prefixCacheBytes: 0,
    ...options,
  });
  try {
    return await use(engine);
  } finally {
    await engine.dispose();
  }
}

function together(engine: ReadMeEngine, order: readonly GenerateRequest[]): Promise<readonly Completed[]> {
  return Promise.all(order.map((request) => complete(engine, request)));
}

const PRECISIONS = ["fp32", "file", "int8", "int4"] as const;
for (const precision of PRECISIONS) {
  // Precisions differ in the products only.
  const runsAll = precision === "file" || precision === "int8" || RUNS_LONG_TESTS;
  describe.skipIf(path === undefined)(`SmolLM2 in ${precision} (skipped where shared/models is absent)`, () => {
    const withEngine = <Result>(
      options: OpenOptions,
      use: (engine: ReadMeEngine) => Promise<Result>,
    ): Promise<Result> => withSmolLm2({ precision, ...options }, use);
    let alone: readonly Completed[] = [];

    test("alone, one after the other", async () => {
      alone = await withEngine({}, async (engine) => {
        const completed: Completed[] = [];
        for (const request of REQUESTS) completed.push(await complete(engine, request));
        return completed;
      });
      expect(alone.every(({ tokens }) => tokens.every(({ topLogprobs }) => topLogprobs?.length === 4))).toBe(true);
    });

    test("with the other sequences: the same bits", async () => {
      await withEngine({}, async (engine) => {
        if (runsAll) expect(await together(engine, REQUESTS)).toEqual(alone);
        expect((await together(engine, REQUESTS.toReversed())).toReversed()).toEqual(alone);
      });
    });

    test.runIf(runsAll)("with few of the admitted in each step: the same bits (skipped in short runs)", async () => {
      await withEngine({ maxNumBatchedSeqs: 5, maxNumBatchedTokens: 128 }, async (engine) => {
        expect(await together(engine, REQUESTS)).toEqual(alone);
      });
    });

    test("with cached prefixes: the same bits", async () => {
      await withEngine({ prefixCacheBytes: 200e6 }, async (engine) => {
        expect(await together(engine, REQUESTS)).toEqual(alone);
        expect(await together(engine, REQUESTS)).toEqual(alone);
        expect((await engine.stats()).cachedTokens).toBeGreaterThan(4 * 128);
      });
    });

    test("in chunks of another size, on one thread: the same bits", async () => {
      await withEngine({ chunkTokens: 64, maxNumBatchedTokens: 192, threads: 1 }, async (engine) => {
        expect(await together(engine, REQUESTS)).toEqual(alone);
      });
    });

    const preempts = precision === "int8" || RUNS_LONG_TESTS;
    test.runIf(preempts)("preempted and computed again: the same bits (skipped in short runs)", async () => {
      const longer = REQUESTS.slice(-8).map(({ prompt, params }) => ({
        prompt,
        params: { ...params, maxTokens: 160 },
      }));
      const expected = await withEngine({}, async (engine) => {
        const completed = await together(engine, longer);
        expect((await engine.stats()).preemptions).toBe(0);
        return completed;
      });
      // Room for one of the long prompts and some short ones.
      const bytesPerToken = precision === "fp32" ? 46_080 : 23_040;
      await withEngine({ kvCacheBytes: 512 * bytesPerToken }, async (engine) => {
        expect(await together(engine, longer)).toEqual(expected);
        expect((await engine.stats()).preemptions).toBeGreaterThan(0);
      });
    });

    // float32 products round once in an addon and twice in WebAssembly.
    test.skipIf(precision === "fp32")("in WebAssembly: the same bits (skipped for fp32)", async () => {
      await withEngine({ kernel: "wasm" }, async (engine) => {
        expect(engine.info.kernel).toMatchObject({ kind: "wasm", threads: 2 });
        expect(await together(engine, REQUESTS.slice(0, 6))).toEqual(alone.slice(0, 6));
      });
    });
  });
}
