// Routers in every build of the kernel: their logits, and that no other tokens or sequences change a bit of them.

import * as fc from "../support/fast-check.ts";
import type { PreGatingRouter } from "@readme-moe/core";
import type { KernelKind } from "@readme-moe/kernel";
import type { RouterConfig } from "@readme-moe/model";
import { KernelRouter } from "@readme-moe/router";
import { expect, test } from "vitest";
import { plainRouterLogits } from "../oracles/plain-router.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { randomRouter, ROUTER_CONTEXT_TOKENS, routerConfig, type TestRouter } from "../support/random-router.ts";
import { largestDifference } from "../support/running-model.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const SEED = 20_261_127;
const KINDS = ["native", "wasm"] as const;
let numRouters = 0;

async function withRouter(
  { weights }: TestRouter,
  options: { readonly kernel: KernelKind; readonly threads: number; readonly cacheFolder: string },
  use: (router: PreGatingRouter) => Promise<void>,
): Promise<void> {
  const fingerprint = `random router ${++numRouters}`;
  const model = { path: "memory", router: weights, fingerprint: async () => fingerprint };
  const router = await KernelRouter.open(model, options);
  try {
    await use(router);
  } finally {
    await router.dispose();
  }
}

function randomSequences(random: () => number, { vocabSize }: RouterConfig, mostTokens: number): number[][] {
  return Array.from({ length: 1 + randomInteger(random, 5) }, () =>
    Array.from({ length: 1 + randomInteger(random, mostTokens) }, () => randomInteger(random, vocabSize)),
  );
}

async function logitsAlone(router: PreGatingRouter, tokenIds: readonly number[]): Promise<Float32Array> {
  const [route] = await router.route([{ state: router.start(), tokenIds }]);
  return route?.logits ?? new Float32Array();
}

/** Routes all sequences to their ends, in random calls of random pieces. */
async function logitsInPieces(
  router: PreGatingRouter,
  sequences: readonly (readonly number[])[],
  random: () => number,
  mostTokens: number,
): Promise<readonly Float32Array[]> {
  const states = sequences.map(() => router.start());
  const logits: number[][] = sequences.map(() => []);
  for (;;) {
    const left = Array.from(sequences.keys()).filter(
      (index) => (states[index]?.numTokens ?? 0) < (sequences[index]?.length ?? 0),
    );
    if (left.length === 0) break;
    const members = left.filter((_, index) => index === 0 || random() < 0.7);
    const inputs = members.map((index) => {
      const state = states[index] as (typeof states)[number];
      const from = state.numTokens;
      return { state, tokenIds: sequences[index]?.slice(from, from + 1 + randomInteger(random, mostTokens)) ?? [] };
    });
    const routes = await router.route(inputs);
    for (const [place, index] of members.entries()) logits[index]?.push(...(routes[place]?.logits ?? []));
  }
  for (const state of states) router.release(state);
  return logits.map((values) => Float32Array.from(values));
}

test.each(KINDS)("%s: logits agree with the plain implementation", async (kernel) => {
  const cacheFolder = await temporaryFolder();
  await fc.assert(
    fc.asyncProperty(routerConfig, fc.nat(), async (config, seed) => {
      const made = randomRouter(config, seed);
      await withRouter(made, { kernel, threads: 2, cacheFolder }, async (router) => {
        for (const tokenIds of randomSequences(seededRandom(seed), config, 30)) {
          const expected = plainRouterLogits(made.plain, tokenIds).flat();
          expect(largestDifference(await logitsAlone(router, tokenIds), expected)).toBeLessThan(1e-3);
        }
      });
    }),
    { seed: SEED, numRuns: 12 },
  );
});

test.each(KINDS)(
  "%s: a sequence has the same bits alone, with others, token by token and in pieces",
  async (kernel) => {
    const cacheFolder = await temporaryFolder();
    await fc.assert(
      fc.asyncProperty(routerConfig, fc.nat(), fc.constantFrom(1, 2), async (config, seed, threads) => {
        const random = seededRandom(seed);
        await withRouter(randomRouter(config, seed), { kernel, threads, cacheFolder }, async (router) => {
          const sequences = randomSequences(random, config, 60);
          const alone = [];
          for (const tokenIds of sequences) alone.push(await logitsAlone(router, tokenIds));
          const together = await router.route(sequences.map((tokenIds) => ({ state: router.start(), tokenIds })));
          expect(together.map(({ logits }) => logits)).toEqual(alone);
          for (const most of [1, 25]) expect(await logitsInPieces(router, sequences, random, most)).toEqual(alone);
        });
      }),
      { seed: SEED, numRuns: 10 },
    );
  },
);

test.each(KINDS)("%s: and so does one longer than one call, up to the whole context", async (kernel) => {
  const cacheFolder = await temporaryFolder();
  const [config] = fc.sample(routerConfig, { seed: SEED, numRuns: 1 }) as [RouterConfig];
  await withRouter(randomRouter(config, SEED), { kernel, threads: 2, cacheFolder }, async (router) => {
    const random = seededRandom(SEED);
    const sequences = [ROUTER_CONTEXT_TOKENS, 3, 600, ROUTER_CONTEXT_TOKENS].map((length) =>
      Array.from({ length }, () => randomInteger(random, config.vocabSize)),
    );
    const together = await router.route(sequences.map((tokenIds) => ({ state: router.start(), tokenIds })));
    const pieces = await logitsInPieces(router, sequences, random, 90);
    expect(together.map(({ logits }) => logits)).toEqual(pieces);
  });
});
