// Drafts of real models: the first layers of the pocket model, compared with a plain greedy loop.

import { join } from "node:path";
import type { Draft } from "@readme-moe/core";
import { kvBytesPerToken } from "@readme-moe/kernel";
import { KernelRunner } from "@readme-moe/engine";
import { openModel } from "@readme-moe/model";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { evidenceOf } from "../../../packages/engine/src/speculation/draft-model-plan.ts";
import type { ChancesOf } from "../../../packages/engine/src/speculation/drafter.ts";
import { type DraftModelOptions, ModelDrafter } from "../../../packages/engine/src/speculation/model-drafter.ts";
import { writeFirstLayers } from "../../support/first-layers.ts";
import { PlainDrafts } from "../../support/plain-drafts.ts";
import { cases, POCKET } from "../../support/pocket.ts";
import { randomInteger, seededRandom } from "../../support/random.ts";
import { persistentFolder, temporaryFolder } from "../../support/temporary-folder.ts";

const VOCABULARY = 4096;
let path: string;
let plain: PlainDrafts;
let closePlain: () => Promise<void>;

beforeAll(async () => {
  path = join(await persistentFolder(), "two-layers");
  await writeFirstLayers(POCKET, path, 2);
  const model = await openModel(path);
  const runner = await KernelRunner.open(model, { precision: "int8", threads: 2 });
  plain = new PlainDrafts(runner);
  closePlain = async () => {
    await runner.dispose();
    await model.close();
  };
});
afterAll(() => closePlain());

/** Opens the first layers; drafts end by their length alone. */
async function drafterOf(options: DraftModelOptions = {}, folder: string = path) {
  const all = { precision: "int8", threads: 2, leastChance: 0, ...options } as const;
  const drafter = await ModelDrafter.open(await openModel(folder), all);
  return Object.assign(drafter, { [Symbol.asyncDispose]: () => drafter.dispose() });
}

function randomIds(random: () => number, length: number): readonly number[] {
  return Array.from({ length }, () => 1 + randomInteger(random, VOCABULARY - 1));
}

async function expected(tokenIds: readonly number[], numTokens: number): Promise<Draft> {
  const tokens = await plain.continued(tokenIds, numTokens);
  return {
    source: "model",
    tokenIds: tokens.map(({ tokenId }) => tokenId),
    classes: tokens.map(({ probability }) => evidenceOf(probability)),
  };
}

const NONE: Draft = { source: "model", tokenIds: [], classes: [] };
const BYTES_PER_TOKEN = kvBytesPerToken({ numLayers: 2, numKvHeads: 2, headSize: 64 }, "fp16");

test("the whole pocket model in float32 drafts what PyTorch continues its prompts with", async () => {
  await using drafter = await drafterOf({ precision: "fp32" }, POCKET);
  const model = await openModel(POCKET);
  const { tokenizer } = await model.loadText();
  await model.close();
  const sequences = cases.map(({ text }, index) => ({
    id: String(index),
    tokenIds: Array.from(tokenizer.encode(text)),
    mostTokens: 32,
  }));
  const drafts = await drafter.propose(sequences);
  expect(drafts.map(({ tokenIds }) => tokenIds)).toEqual(
    cases.map(({ greedy_32: tokens }) => {
      const end = tokens.indexOf(0);
      return end < 0 ? tokens : tokens.slice(0, end + 1);
    }),
  );
});

test("drafts are what a plain greedy loop gives, together and alone", async () => {
  await using drafter = await drafterOf();
  const random = seededRandom(1);
  const sequences = [1, 2, 16, 17, 40, 70].map((length, index) => ({
    id: String(index),
    tokenIds: randomIds(random, length),
    mostTokens: 1 + 2 * index,
  }));
  const together = await drafter.propose(sequences);
  for (const [index, { id, tokenIds, mostTokens }] of sequences.entries()) {
    const right = await expected(tokenIds, mostTokens);
    expect(together[index]).toEqual(right);
    drafter.forget(id);
    expect(await drafter.propose([{ id, tokenIds, mostTokens }])).toEqual([right]);
  }
});

test("drafts stay right while tokens are accepted and rejected, in any order and with little memory", async () => {
  const kvBytes = 192 * BYTES_PER_TOKEN;
  await using drafter = await drafterOf({ kvBytes, chunkTokens: 32 });
  const random = seededRandom(2);
  const texts = new Map<string, number[]>();
  const counts = { right: 0, none: 0, accepted: 0, rejected: 0, rewound: 0 };
  let nextId = 0;
  for (let round = 0; round < 300; round++) {
    if (texts.size < 5 && random() < 0.3) {
      texts.set(String(nextId++), [...randomIds(random, 1 + randomInteger(random, 60))]);
    }
    const sequences = Array.from(texts, ([id, tokenIds]) => ({ id, tokenIds, mostTokens: randomInteger(random, 5) }))
      .filter(() => random() < 0.7)
      .toSorted(() => random() - 0.5);
    const drafts = await drafter.propose(sequences);
    for (const [index, { id, tokenIds, mostTokens }] of sequences.entries()) {
      const draft = drafts[index] as Draft;
      if (draft.tokenIds.length === 0) counts.none++;
      else counts.right++;
      if (draft.tokenIds.length > 0) expect(draft).toEqual(await expected(tokenIds, mostTokens));
      const numAccepted = randomInteger(random, draft.tokenIds.length + 1);
      counts.accepted += numAccepted;
      counts.rejected += draft.tokenIds.length - numAccepted;
      tokenIds.push(...draft.tokenIds.slice(0, numAccepted), ...randomIds(random, 1));
      if (random() < 0.05) {
        counts.rewound++;
        tokenIds.length = 1 + randomInteger(random, tokenIds.length);
      }
      if (tokenIds.length < 90) continue;
      texts.delete(id);
      drafter.forget(id);
    }
    expect(drafter.bytes).toBeLessThanOrEqual(kvBytes);
  }
  for (const count of Object.values(counts)) expect(count).toBeGreaterThan(20);
  for (const id of texts.keys()) drafter.forget(id);
  expect(drafter.bytes).toBe(0);
});

describe("reading", () => {
  test("a long prompt is read in chunks, and delays no other sequence", async () => {
    await using drafter = await drafterOf({ chunkTokens: 128 });
    const random = seededRandom(3);
    const long = { id: "long", tokenIds: randomIds(random, 300), mostTokens: 2 };
    const short = { id: "short", tokenIds: [...randomIds(random, 10)], mostTokens: 2 };
    const lengths: number[] = [];
    for (let call = 0; call < 3; call++) {
      const [ofLong, ofShort] = await drafter.propose([long, short]);
      lengths.push(ofLong?.tokenIds.length ?? -1);
      expect(ofShort).toEqual(await expected(short.tokenIds, 2));
      short.tokenIds.push(...randomIds(random, 1));
    }
    expect(lengths).toEqual([0, 0, 2]);
  });

  test("a sequence that wants no draft yet is only read", async () => {
    await using drafter = await drafterOf({ chunkTokens: 64 });
    const tokenIds = randomIds(seededRandom(4), 100);
    const read = () => drafter.propose([{ id: "a", tokenIds, mostTokens: 0 }]);
    expect([await read(), await read()]).toEqual([[NONE], [NONE]]);
    const { bytes } = drafter;
    expect(bytes).toBe(112 * BYTES_PER_TOKEN);
    // Everything is read, so that the first draft needs one run of one token.
    expect(await drafter.propose([{ id: "a", tokenIds, mostTokens: 1 }])).toEqual([await expected(tokenIds, 1)]);
  });

  test("a draft ends at the context of its model, and there is none for longer sequences", async () => {
    const folder = join(await temporaryFolder(), "short");
    await writeFirstLayers(POCKET, folder, 2, { max_position_embeddings: 64 });
    await using drafter = await drafterOf({}, folder);
    const tokenIds = randomIds(seededRandom(5), 65);
    const lengths = [];
    for (const length of [60, 63, 64, 65]) {
      const [draft] = await drafter.propose([{ id: "a", tokenIds: tokenIds.slice(0, length), mostTokens: 8 }]);
      lengths.push(draft?.tokenIds.length);
    }
    expect(lengths).toEqual([5, 2, 1, 0]);
    expect(drafter.bytes).toBe(0);
  });
});

describe("memory", () => {
  test("the sequence that was used least recently makes room, and is read again", async () => {
    const kvBytes = 128 * BYTES_PER_TOKEN;
    await using drafter = await drafterOf({ kvBytes });
    const random = seededRandom(6);
    const sequences = ["a", "b", "c"].map((id) => ({ id, tokenIds: randomIds(random, 40), mostTokens: 3 }));
    for (let round = 0; round < 3; round++) {
      for (const sequence of sequences) {
        expect(await drafter.propose([sequence])).toEqual([await expected(sequence.tokenIds, 3)]);
        expect(drafter.bytes).toBeLessThanOrEqual(kvBytes);
      }
    }
  });

  test("sequences of one call do not displace one another", async () => {
    await using drafter = await drafterOf({ kvBytes: 128 * BYTES_PER_TOKEN });
    const random = seededRandom(7);
    const [a, b, c] = ["a", "b", "c"].map((id) => ({ id, tokenIds: randomIds(random, 40), mostTokens: 3 }));
    if (!a || !b || !c) throw new Error("Three sequences were made");
    const right = [];
    for (const { tokenIds } of [a, b, c]) right.push(await expected(tokenIds, 3));
    expect(await drafter.propose([a, b])).toEqual(right.slice(0, 2));
    // Those in memory keep their place, whatever the order.
    expect(await drafter.propose([c, b, a])).toEqual([NONE, right[1], right[0]]);
    expect(await drafter.propose([c, a])).toEqual([right[2], right[0]]);
    drafter.forget("a");
    expect(await drafter.propose([b, c])).toEqual([right[1], right[2]]);
  });

  test("a sequence that never fits takes no room from others", async () => {
    await using drafter = await drafterOf({ kvBytes: 64 * BYTES_PER_TOKEN });
    const random = seededRandom(8);
    const short = { id: "short", tokenIds: randomIds(random, 20), mostTokens: 1 };
    await drafter.propose([short]);
    const { bytes } = drafter;
    expect(await drafter.propose([{ id: "long", tokenIds: randomIds(random, 65), mostTokens: 1 }])).toEqual([NONE]);
    expect(drafter.bytes).toBe(bytes);
  });

  test("is free after `forget`, whenever it is called, and after `dispose`", async () => {
    await using drafter = await drafterOf();
    const random = seededRandom(9);
    const kept = { id: "kept", tokenIds: randomIds(random, 10), mostTokens: 4 };
    const right = await expected(kept.tokenIds, 4);
    for (let delay = 0; delay < 24; delay++) {
      const forgotten = { id: "forgotten", tokenIds: randomIds(random, 10), mostTokens: 8 };
      const drafts = drafter.propose([kept, forgotten]);
      for (let turn = 0; turn < delay; turn++) await Promise.resolve();
      drafter.forget("forgotten");
      expect((await drafts)[0]).toEqual(right);
      drafter.forget("forgotten");
      expect(drafter.bytes).toBe(16 * BYTES_PER_TOKEN);
    }
    const last = drafter.propose([kept]);
    const closed = [drafter.dispose(), drafter.dispose()];
    expect(await last).toEqual([right]);
    await Promise.all(closed);
    expect(drafter.bytes).toBe(0);
    await expect(drafter.propose([kept])).rejects.toThrow(TypeError);
  });
});

describe("wrong input", () => {
  test("tokens that one of the models does not know are not drafted and not run", async () => {
    await using drafter = await drafterOf({ vocabSize: 100 });
    const random = seededRandom(10);
    const other = { id: "other", tokenIds: [5, VOCABULARY], mostTokens: 4 };
    let numCut = 0;
    for (let round = 0; round < 10; round++) {
      const tokenIds = randomIds(random, 12);
      const whole = await expected(tokenIds, 4);
      const unknown = whole.tokenIds.findIndex((tokenId) => tokenId >= 100);
      const known = unknown < 0 ? 4 : unknown;
      if (known < 4) numCut++;
      const drafts = await drafter.propose([{ id: "a", tokenIds, mostTokens: 4 }, other]);
      expect(drafts.map((draft) => draft.tokenIds)).toEqual([whole.tokenIds.slice(0, known), []]);
    }
    expect(numCut).toBeGreaterThan(0);
  });

  test("an empty sequence has no draft", async () => {
    await using drafter = await drafterOf();
    const one = { id: "a", tokenIds: [], mostTokens: 3 };
    expect(await drafter.propose([one])).toEqual([NONE]);
    expect(await drafter.propose([])).toEqual([]);
  });
});

/** A clock that goes on by `ms` whenever it is read. */
function clock(ms: number): () => number {
  let time = 0;
  return () => (time += ms);
}

/** Chances of drafts whose tokens all have the same one. */
function always(chance: number): ChancesOf {
  return ({ tokenIds }) => tokenIds.map(() => chance);
}

describe("cost", () => {
  test("is measured from the drafter's own runs", async () => {
    await using drafter = await drafterOf({ now: clock(5), cacheFolder: await temporaryFolder() });
    const tokenIds = randomIds(seededRandom(11), 10);
    for (let call = 0; call < 20; call++) {
      const { spentMs } = drafter;
      await drafter.propose([{ id: "a", tokenIds, mostTokens: 4 }]);
      expect(drafter.spentMs - spentMs).toBe(4 * 5);
    }
    expect(drafter.msPerToken(1)).toBeCloseTo(5, 0);
    expect(drafter.msPerToken(8)).toBeLessThan(5);
  });

  test("decides how far drafts go, and never which tokens they have", async () => {
    await using drafter = await drafterOf({ now: clock(1), cacheFolder: await temporaryFolder() });
    const tokenIds = randomIds(seededRandom(12), 10);
    const whole = await expected(tokenIds, 8);
    const lengths: number[] = [];
    for (const ms of [0.5, 4, 100, 10_000]) {
      const step = { tokens: 1, ms, msPerRow: 0.01 * ms };
      const [draft = NONE] = await drafter.propose(
        [{ id: "a", tokenIds, mostTokens: 8, chancesOf: always(0.7) }],
        step,
      );
      expect(draft.tokenIds).toEqual(whole.tokenIds.slice(0, draft.tokenIds.length));
      lengths.push(draft.tokenIds.length);
    }
    expect(lengths).toEqual(lengths.toSorted((a, b) => a - b));
    expect([lengths[0], lengths.at(-1)]).toEqual([0, 8]);
    expect(new Set(lengths).size).toBeGreaterThan(2);
  });

  test("a sequence whose drafts are rejected is left alone, and tried again now and then", async () => {
    await using drafter = await drafterOf({ now: clock(1), cacheFolder: await temporaryFolder(), leastChance: 0.1 });
    const tokenIds = randomIds(seededRandom(13), 10);
    const step = { tokens: 1, ms: 5, msPerRow: 0.1 };
    const asked = { id: "a", tokenIds, mostTokens: 8, chancesOf: always(0.05) };
    let numRuns = 0;
    for (let call = 0; call < 300; call++) {
      const { spentMs } = drafter;
      expect(await drafter.propose([asked], step)).toEqual([NONE]);
      if (drafter.spentMs > spentMs) numRuns++;
    }
    expect(numRuns).toBeGreaterThan(4);
    expect(numRuns).toBeLessThan(40);
  });
});
