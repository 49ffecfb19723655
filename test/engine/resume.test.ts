// Requests that go on after tokens that were generated before: on another engine, with other options, cut anywhere.

import { join } from "node:path";
import type { Engine, GenerateChunk, GenerateRequest, ProcessLogits } from "@readme-moe/core";
import { ReadMeEngine, type OpenOptions } from "@readme-moe/engine";
import { openModel, type Tokenizer } from "@readme-moe/model";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { RUNS_LONG_TESTS } from "../support/long-tests.ts";
import { writePocketExperts } from "../support/pocket-experts.ts";
import { pocketTexts } from "../support/pocket-texts.ts";
import { POCKET, POCKET_HEAD } from "../support/pocket.ts";
import { randomRequests } from "../support/random-requests.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const NUM_REQUESTS = Number(process.env["README_MOE_RESUMED_REQUESTS"] ?? (RUNS_LONG_TESTS ? 40 : 10));
const AT_ONCE = 12;

let folder: string;
let texts: readonly string[];
let tokenizer: Tokenizer;
beforeAll(async () => {
  folder = await persistentFolder();
  await writePocketExperts(join(folder, "experts"));
  const model = await openModel(POCKET);
  ({ tokenizer } = await model.loadText());
  await model.close();
  texts = (await pocketTexts()).flatMap(({ documents }) => documents);
});

/** Chunks of each choice, without usage, and the usage that does not depend on the engine. */
async function chunksOf(engine: Pick<Engine, "generate">, request: GenerateRequest) {
  const choices: GenerateChunk[][] = Array.from({ length: request.params?.n ?? 1 }, () => []);
  let counts: unknown;
  for await (const { usage, ...chunk } of engine.generate(request)) {
    if (usage) counts = { promptTokens: usage.promptTokens, completionTokens: usage.completionTokens };
    choices[chunk.choice]?.push(chunk);
  }
  return { choices, counts };
}

/** Contexts that a request's function gets. */
async function contextsOf(engine: ReadMeEngine, request: GenerateRequest): Promise<readonly unknown[]> {
  const contexts: unknown[] = [];
  const processLogits: ProcessLogits = (_, { tokenIds, ...rest }) =>
    void contexts.push({ ...rest, tokenIds: Array.from(tokenIds) });
  await chunksOf(engine, { ...request, processLogits });
  return contexts;
}

const idsOf = (chunks: readonly GenerateChunk[]): readonly number[] =>
  chunks.flatMap(({ tokens }) => tokens.map(({ id }) => id));

/** Chunks that follow the first `count` tokens. */
function chunksAfter(chunks: readonly GenerateChunk[], count: number): readonly GenerateChunk[] {
  if (count < chunks.length) return chunks.slice(count);
  const { choice, finishReason, stop } = chunks.at(-1) as GenerateChunk;
  const last = { choice, text: "", tokens: [], finishReason };
  return [stop === undefined ? last : { ...last, stop }] as GenerateChunk[];
}

async function inTurns<Item, Result>(
  items: readonly Item[],
  atOnce: number,
  run: (item: Item) => Promise<Result>,
): Promise<readonly Result[]> {
  const results: Result[] = [];
  const left = Array.from(items.entries());
  const worker = async (): Promise<void> => {
    for (let next = left.shift(); next; next = left.shift()) results[next[0]] = await run(next[1]);
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
  return results;
}

/** Kind of a place between two tokens, before the first or behind the last. */
const PLACES = ["beginning", "end", "in a character", "in held text", "between texts"] as const;
type CutPlace = (typeof PLACES)[number];

function placeOf(chunks: readonly GenerateChunk[], at: number): CutPlace {
  if (at === 0) return "beginning";
  if (at === chunks.length) return "end";
  const text = tokenizer.decode(idsOf(chunks.slice(0, at)), { skipSpecialTokens: true });
  if (text.endsWith("\uFFFD")) return "in a character";
  const shown = chunks.slice(0, at).map((chunk) => chunk.text);
  return shown.join("") === text ? "between texts" : "in held text";
}

/** Places where requests were cut. */
const cutPlaces = new Set<CutPlace>();

/** Draws random bytes of characters. */
const WILD = { temperature: 2, topK: 0, topP: 1, minP: 0, ignoreEos: true, maxTokens: 40 } as const;

interface Setting {
  readonly name: string;
  readonly model: () => string;
  /** Options of the engine that generates all, and of the one that goes on. */
  readonly first: OpenOptions;
  readonly second: () => OpenOptions;
}

const SETTINGS: readonly Setting[] = [
  {
    name: "from an engine without speculation to one with it, and little memory",
    model: () => POCKET,
    first: { threads: 2, speculation: false },
    second: () => ({ threads: 1, chunkTokens: 64, kvCacheBytes: 3_000_000, maxNumBatchedTokens: 96 }),
  },
  {
    name: "from an engine with speculation to one with a draft model and one place",
    model: () => POCKET,
    first: { threads: 1, precision: "int8", kvCacheBytes: 3_000_000 },
    second: () => ({ threads: 2, precision: "int8", maxNumSeqs: 1, draftHead: POCKET_HEAD }),
  },
  {
    name: "from experts in memory to streamed ones",
    model: () => join(folder, "experts"),
    first: { threads: 2, precision: "int8" },
    second: () => ({ threads: 1, precision: "int8", expertCacheBytes: 1_300_000, prefixCacheBytes: 0 }),
  },
];

describe.each(SETTINGS)("$name", ({ name, model, first, second }) => {
  test(`${NUM_REQUESTS} random requests go on as if they had never been cut`, async () => {
    const random = seededRandom(name.length);
    const whole = await ReadMeEngine.open(model(), { precision: "fp32", isolation: "thread", ...first });
    const numExperts = whole.info.experts.length;
    const requests = randomRequests(NUM_REQUESTS, name.length, { texts, numExperts }).map(({ request }, index) => {
      if (request.processLogits !== undefined) return request;
      const wild = index % 5 === 0 ? { ...request.params, ...WILD } : request.params;
      return { ...request, params: { ...wild, minTokens: random() < 0.3 ? wild.maxTokens : 0 } };
    });
    const runs = await inTurns(requests, AT_ONCE, (request) => chunksOf(whole, request));
    await whole.dispose();
    const cuts = runs.map(({ choices }) =>
      choices.map((chunks) => {
        const wanted = PLACES[randomInteger(random, PLACES.length)];
        const all = Array.from({ length: chunks.length + 1 }, (_, at) => at);
        const some = all.filter((at) => placeOf(chunks, at) === wanted);
        const fitting = some.length > 0 ? some : all;
        const at = fitting[randomInteger(random, fitting.length)] ?? 0;
        cutPlaces.add(placeOf(chunks, at));
        return idsOf(chunks).slice(0, at);
      }),
    );

    const rest = await ReadMeEngine.open(model(), { precision: "fp32", isolation: "thread", ...second() });
    const resumed = await inTurns(Array.from(requests.entries()), AT_ONCE, ([index, request]) =>
      chunksOf(rest, { ...request, resume: { choices: cuts[index] ?? [] } }),
    );
    for (const [index, { choices, counts }] of runs.entries()) {
      const expected = choices.map((chunks, choice) => chunksAfter(chunks, cuts[index]?.[choice]?.length ?? 0));
      expect(resumed[index], `request ${index}`).toEqual({ choices: expected, counts });
    }
    const { numRunning, numWaiting, kvUsedTokens } = await rest.stats();
    expect([numRunning, numWaiting, kvUsedTokens]).toEqual([0, 0, 0]);
    await rest.dispose();
  });
});

test("the requests were cut at places of every kind", () => {
  expect(Array.from(cutPlaces).toSorted()).toEqual(PLACES.toSorted());
});

describe("a request that goes on", () => {
  const prompt = "The old harbour was";
  const params = { maxTokens: 12, seed: 3, ignoreEos: true, logprobs: 2 } as const;
  let engine: ReadMeEngine;
  let ids: readonly number[];
  beforeAll(async () => {
    engine = await ReadMeEngine.open(POCKET, { precision: "fp32", isolation: "thread", threads: 1, contextTokens: 64 });
    ids = idsOf((await chunksOf(engine, { prompt, params })).choices[0] ?? []);
  });
  afterAll(() => engine.dispose());

  test("gives its caller's function the contexts that follow, and no others", async () => {
    const request = { prompt, params };
    const all = await contextsOf(engine, request);
    expect(all.length).toBe(12);
    expect(await contextsOf(engine, { ...request, resume: { choices: [ids.slice(0, 5)] } })).toEqual(all.slice(5));
  });

  test("is accepted with the experts of its prompt, and events count its tokens from the beginning", async () => {
    const ended: unknown[] = [];
    engine.events.on("sequence:finished", ({ promptTokens, completionTokens }) =>
      ended.push({ promptTokens, completionTokens }),
    );
    const accepted: unknown[] = [];
    for (const length of [0, 7, 12]) {
      const generation = engine.generate({
        prompt,
        params,
        resume: { choices: [Uint16Array.from(ids.slice(0, length))] },
      });
      accepted.push(await generation.accepted);
      for await (const _ of generation);
    }
    expect(accepted).toEqual(Array.from({ length: 3 }, () => accepted[0]));
    const { promptTokens } = accepted[0] as { promptTokens: number };
    expect(accepted[0]).toEqual({ promptTokens, experts: new Uint16Array(promptTokens) });
    expect(ended).toEqual(Array.from({ length: 3 }, () => ({ promptTokens, completionTokens: 12 })));
  });

  test("may have ended in every choice, which takes no place and no step", async () => {
    const { steps } = await engine.stats();
    const resume = { choices: [ids, ids] };
    const { choices, counts } = await chunksOf(engine, { prompt, params: { ...params, n: 2 }, resume });
    expect(choices).toEqual([0, 1].map((choice) => [{ choice, text: "", tokens: [], finishReason: "length" }]));
    expect(counts).toMatchObject({ completionTokens: 24 });
    expect((await engine.stats()).steps).toBe(steps);
  });

  test.each<[string, unknown, object, string]>([
    ["no object", 5, {}, "Expected `resume` to be { choices }, got `5`"],
    ["another field", { choices: [[]], text: "" }, {}, "`text`"],
    [
      "no list",
      { choices: "ab" },
      {},
      'Expected `resume.choices` to be a list of lists of token ids, got `"ab"` (string)',
    ],
    [
      "too few choices",
      { choices: [[]] },
      { n: 2 },
      "Expected `resume.choices` to have 2 lists, one for each choice, got 1",
    ],
    ["no ids", { choices: [null] }, {}, "Expected `resume.choices[0]` to be a list of token ids, got `null`"],
    ["an id outside the vocabulary", { choices: [[4, 4096]] }, {}, "Expected `resume.choices[0][1]`"],
    ["a fraction", { choices: [[0.5]] }, {}, "Expected `resume.choices[0][0]`"],
    ["more than `maxTokens`", { choices: [[4, 4, 4]] }, { maxTokens: 2 }, "to have at most 2 tokens, got 3"],
    ["no seed", { choices: [[4]] }, { seed: undefined }, "Expected `seed` beside `resume`"],
    [
      "an end before the last token",
      { choices: [[7, 4]] },
      { stopTokenIds: [7] },
      "no end token before its last token, got 7 at 0",
    ],
    [
      "an end before `minTokens`",
      { choices: [[4, 7]] },
      { stopTokenIds: [7], minTokens: 3 },
      "no end token before 3 tokens, got 7 at 1",
    ],
  ])("is refused at once with %s", (_, resume, changed, message) => {
    const request = { prompt, params: { ...params, ...changed }, resume } as GenerateRequest;
    expect(() => engine.generate(request)).toThrow(message);
    expect(() => engine.generate(request)).toThrow(/^Expected|`text`/);
  });

  test("needs no seed where nothing is drawn", async () => {
    const greedy = { ...params, seed: undefined, temperature: 0 };
    const { choices } = await chunksOf(engine, { prompt, params: greedy });
    const resume = { choices: [idsOf(choices[0] ?? []).slice(0, 4)] };
    expect((await chunksOf(engine, { prompt, params: greedy, resume })).choices).toEqual([choices[0]?.slice(4)]);
  });

  test("rejects tokens behind a stop string, and behind the end of the context", async () => {
    const { choices } = await chunksOf(engine, { prompt, params });
    const text = (choices[0] ?? []).map((chunk) => chunk.text).join("");
    const stop = text.slice(8, 11);
    const behindStop = { prompt, params: { ...params, stop }, resume: { choices: [ids] } };
    await expect(chunksOf(engine, behindStop)).rejects.toThrow(
      /^Expected `resume.choices\[0\]` to end with its first .*stop string/,
    );
    const long = Array.from({ length: 60 }, () => 5);
    const behindContext = { prompt: long, params, resume: { choices: [ids.slice(0, 8)] } };
    await expect(chunksOf(engine, behindContext)).rejects.toThrow(
      /to end with its first 4 tokens \(length\), got 8 tokens/,
    );
    const { numRunning, numWaiting } = await engine.stats();
    expect([numRunning, numWaiting]).toEqual([0, 0]);
  });
});

describe("a drained engine", () => {
  const requests = Array.from({ length: 5 }, (_, index): GenerateRequest => ({
    prompt: `Number ${index} of the old harbour was`,
    params: { maxTokens: 40, seed: index, ignoreEos: true, logprobs: 1, n: 1 + (index % 2) },
  }));

  test("gives all tokens that it generated, and another engine the rest", async () => {
    const [first, second] = (await Promise.all(
      [1, 2].map((threads) =>
        ReadMeEngine.open(POCKET, { precision: "fp32", isolation: "thread", threads, maxNumSeqs: 4 }),
      ),
    )) as [ReadMeEngine, ReadMeEngine];
    const steps = new Promise<void>((resolve) => {
      first.events.on("batch:completed", ({ step }) => (step === 9 ? resolve() : undefined));
    });
    const given = requests.map(({ params }) => Array.from({ length: params?.n ?? 1 }, (): GenerateChunk[] => []));
    const read = async (request: GenerateRequest, index: number): Promise<void> => {
      for await (const chunk of first.generate(request)) given[index]?.[chunk.choice]?.push(chunk);
    };
    const ends = requests.map((request, index) => expectReadMeError(read(request, index), "ERR_DRAINED"));
    await steps;
    await first.drain();
    const { numRunning, numWaiting, kvUsedTokens, completionTokens } = await first.stats();
    expect([numRunning, numWaiting, kvUsedTokens]).toEqual([0, 0, 0]);
    await Promise.all(ends);
    const counts = given.map((choices) => choices.map((chunks) => chunks.length));
    expect(counts.flat().reduce((sum, count) => sum + count, 0)).toBe(completionTokens);
    await expectReadMeError(first.generate(requests[0] as GenerateRequest).next(), "ERR_DRAINED");
    expect((await first.tokenize("a")).length).toBeGreaterThan(0);
    await first.dispose();

    const compare = async ([index, request]: [number, GenerateRequest]): Promise<void> => {
      const choices = given[index]?.map(idsOf) ?? [];
      const rest = await chunksOf(second, { ...request, resume: { choices } });
      const whole = await chunksOf(second, request);
      expect(rest.counts).toEqual(whole.counts);
      expect(rest.choices.map((chunks, choice) => [...(given[index]?.[choice] ?? []), ...chunks])).toEqual(
        whole.choices,
      );
    };
    await Promise.all(Array.from(requests.entries(), compare));
    await second.dispose();
  });
});
