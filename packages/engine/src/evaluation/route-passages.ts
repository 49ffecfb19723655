import type { PreGatingRouter } from "@readme-moe/core";
import type { Passage } from "./passage.ts";

interface Part {
  readonly passage: number;
  readonly tokenIds: Int32Array;
}

/**
 * The expert of each passage's tokens but the last, from which nothing is predicted.
 * @param runTokens - routed in one call, at most
 */
export async function routePassages(
  router: PreGatingRouter,
  passages: readonly Passage[],
  runTokens: number,
): Promise<readonly Uint16Array[]> {
  const states = passages.map(() => router.start());
  const experts = passages.map(({ tokenIds }) => new Uint16Array(tokenIds.length - 1));
  const numRouted = passages.map(() => 0);
  try {
    for (const run of runsOf(passages, runTokens)) {
      const inputs = run.flatMap(({ passage, tokenIds }) => {
        const state = states[passage];
        return state ? { state, tokenIds } : [];
      });
      const routes = await router.route(inputs);
      run.forEach(({ passage, tokenIds }, index) => {
        experts[passage]?.set(routes[index]?.experts ?? [], numRouted[passage]);
        numRouted[passage] = (numRouted[passage] ?? 0) + tokenIds.length;
      });
    }
  } finally {
    for (const state of states) router.release(state);
  }
  return experts;
}

/** As many passages as fit; the parts of a longer one follow each other. */
function runsOf(passages: readonly Passage[], runTokens: number): readonly (readonly Part[])[] {
  const runs: Part[][] = [];
  let room = 0;
  passages.forEach(({ tokenIds }, passage) => {
    for (let from = 0; from < tokenIds.length - 1; from += runTokens) {
      const part = tokenIds.subarray(from, Math.min(from + runTokens, tokenIds.length - 1));
      if (part.length > room || from > 0) {
        runs.push([]);
        room = runTokens;
      }
      runs.at(-1)?.push({ passage, tokenIds: part });
      room -= part.length;
    }
  });
  return runs;
}
