// Random requests, a thousand in the long tests, through engines with and without speculation: dense and with experts, in
// memory and streamed, with a draft head, with aborts and preemptions. Tokens, log-probabilities and reasons are the same.

import { join } from "node:path";
import type { GenerateRequest } from "@readme-moe/core";
import { ReadMeEngine, type OpenOptions } from "@readme-moe/engine";
import { openModel } from "@readme-moe/model";
import { beforeAll, describe, expect, test } from "vitest";
import { completeAll } from "../../support/complete.ts";
import { writePocketExperts } from "../../support/pocket-experts.ts";
import { RUNS_LONG_TESTS } from "../../support/long-tests.ts";
import { pocketTexts } from "../../support/pocket-texts.ts";
import { POCKET, POCKET_HEAD } from "../../support/pocket.ts";
import { type RandomRequest, randomRequests } from "../../support/random-requests.ts";
import { persistentFolder } from "../../support/temporary-folder.ts";
import { writeTinyAdapter } from "../../support/tiny-adapter.ts";

const NUM_REQUESTS = RUNS_LONG_TESTS ? 200 : 32;
const AT_ONCE = 16;
const MOST_ROUNDS = 25;

let folder: string;
let texts: readonly string[];
beforeAll(async () => {
  folder = await persistentFolder();
  await writePocketExperts(join(folder, "experts"));
  const model = await openModel(POCKET);
  for (const name of ["law", "code"]) await writeTinyAdapter(join(folder, name), model.config);
  await model.close();
  texts = (await pocketTexts()).flatMap(({ documents }) => documents);
});

/** Runs requests, some at once. @returns what each gave, without counts of drafts and times */
async function run(engine: ReadMeEngine, requests: readonly RandomRequest[], atOnce: number) {
  const results: unknown[] = [];
  const left = Array.from(requests.entries());
  const worker = async (): Promise<void> => {
    for (let next = left.shift(); next; next = left.shift()) {
      const [index, { request, leavesAfter }] = next;
      results[index] =
        leavesAfter === undefined ? await completed(engine, request) : await begun(engine, request, leavesAfter);
    }
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
  return results;
}

async function completed(engine: ReadMeEngine, request: GenerateRequest) {
  const { choices, usage } = await completeAll(engine, request);
  const { promptTokens, completionTokens } = usage ?? {};
  return { choices, promptTokens, completionTokens };
}

/** Reads the first chunks of each choice, then leaves. */
async function begun(engine: ReadMeEngine, request: GenerateRequest, numChunks: number) {
  const tokens: number[][] = [];
  for await (const { choice, tokens: some } of engine.generate(request)) {
    const own = (tokens[choice] ??= []);
    if (own.length < numChunks) own.push(...some.map(({ id }) => id));
    if (tokens.length === (request.params?.n ?? 1) && tokens.every((one) => one && one.length >= numChunks)) break;
  }
  return tokens;
}

interface Setting {
  readonly name: string;
  readonly model: () => string;
  readonly options: () => OpenOptions;
}

const SETTINGS: readonly Setting[] = [
  { name: "dense", model: () => POCKET, options: () => ({}) },
  {
    name: "dense, with a draft head",
    model: () => POCKET,
    options: () => ({ precision: "int8", draftHead: POCKET_HEAD }),
  },
  {
    name: "with low-rank experts and a head",
    model: () => POCKET,
    options: () => ({ draftHead: POCKET_HEAD, loras: { law: join(folder, "law"), code: join(folder, "code") } }),
  },
  { name: "dense, with preemptions", model: () => POCKET, options: () => ({ kvCacheBytes: 3_000_000 }) },
  { name: "with experts", model: () => join(folder, "experts"), options: () => ({ precision: "int8" }) },
  {
    name: "with streamed experts",
    model: () => join(folder, "experts"),
    options: () => ({ precision: "int8", expertCacheBytes: 1_300_000 }),
  },
];

describe.each(SETTINGS)("$name", ({ name, model, options }) => {
  test(`${NUM_REQUESTS} random requests give the same with and without speculation`, async () => {
    const shared = { precision: "fp32", threads: 2, isolation: "thread", ...options() } as const;
    const { draftHead: _, ...plainOptions } = shared as OpenOptions;
    const plain = await ReadMeEngine.open(model(), { ...plainOptions, speculation: false });
    const numExperts = plain.info.experts.length;
    const requests = randomRequests(NUM_REQUESTS, name.length, { texts, numExperts });
    const expected = await run(plain, requests, AT_ONCE);
    expect((await plain.stats()).draftedTokens).toBe(0);
    await plain.dispose();

    const speculating = await ReadMeEngine.open(model(), shared);
    expect(await run(speculating, requests, AT_ONCE)).toEqual(expected);
    // How many tokens are drafted depends on the time that steps take: a disturbed machine may draft none for a while.
    for (let round = 0; round < MOST_ROUNDS; round++) {
      expect(await run(speculating, requests.slice(0, 8), 1)).toEqual(expected.slice(0, 8));
      if ((await speculating.stats()).acceptedDraftTokens > 0) break;
    }
    const { draftedTokens, acceptedDraftTokens, preemptions, numRunning, kvUsedTokens } = await speculating.stats();
    expect(acceptedDraftTokens).toBeGreaterThan(0);
    expect(draftedTokens).toBeGreaterThanOrEqual(acceptedDraftTokens);
    if (name.includes("preemptions")) expect(preemptions).toBeGreaterThan(0);
    expect([numRunning, kvUsedTokens]).toEqual([0, 0]);
    await speculating.dispose();
  });
});
