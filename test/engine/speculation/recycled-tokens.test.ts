import { expect, test } from "vitest";
import {
  RECYCLED_CLASSES,
  RecycledTables,
  RecycledTokens,
  type RowCandidates,
} from "../../../packages/engine/src/speculation/recycled-tokens.ts";
import { randomInteger, seededRandom } from "../../support/random.ts";

/** Makes a row from probabilities of tokens, the most likely first. */
function rowOf(...candidates: readonly (readonly [id: number, probability: number])[]): RowCandidates {
  const logSumExp = 3.5;
  return {
    candidateIds: Int32Array.from(candidates, ([id]) => id),
    candidateLogits: Float32Array.from(candidates, ([, probability]) => Math.log(probability) + logSumExp),
    logSumExp,
  };
}

/** The same table with maps, without limits of size and with sorted lists. */
class PlainTable {
  readonly #pairs = new Map<string, { visits: number; mean: Map<number, number> }>();

  learn(before: number, last: number, row: RowCandidates): void {
    for (const key of [`${before} ${last}`, `${last}`]) {
      const { visits, mean } = this.#pairs.get(key) ?? { visits: 0, mean: new Map<number, number>() };
      const share = Math.max(1 / 32, 1 / (visits + 1));
      const next = new Map(Array.from(mean, ([id, probability]) => [id, probability * (1 - share)]));
      Array.from(row.candidateIds.slice(0, 4)).forEach((id, at) => {
        const probability = Math.exp((row.candidateLogits[at] ?? 0) - row.logSumExp);
        next.set(id, (next.get(id) ?? 0) + share * probability);
      });
      const kept = Array.from(next)
        .toSorted((a, b) => b[1] - a[1])
        .slice(0, 4);
      this.#pairs.set(key, { visits: visits + 1, mean: new Map(kept) });
    }
  }

  /** Probability of each token after two. */
  after(before: number, last: number): ReadonlyMap<number, number> {
    const pair = this.#pairs.get(`${before} ${last}`);
    const single = this.#pairs.get(`${last}`);
    const trust = pair ? pair.visits / (pair.visits + 1) : 0;
    const rest = single ? (1 - trust) * (single.visits / (single.visits + 0.5)) : 0;
    const sum = new Map<number, number>();
    for (const [id, one] of pair?.mean ?? []) sum.set(id, trust * one);
    for (const [id, one] of single?.mean ?? []) sum.set(id, (sum.get(id) ?? 0) + rest * one);
    return sum;
  }
}

const SALTS = [undefined, "", "a", "key:b"] as const;

test("finds the most likely token of a plain table of the same salt, and nothing of another salt", () => {
  const random = seededRandom(2);
  const tables = new RecycledTables(1 << 16, new Uint8Array(16));
  const each = SALTS.map((salt) => ({ recycled: new RecycledTokens(tables, salt), plain: new PlainTable() }));
  for (let step = 0; step < 9000; step++) {
    const { recycled, plain } = each[randomInteger(random, SALTS.length)] as (typeof each)[number];
    const [before, last] = [randomInteger(random, 6), randomInteger(random, 6)];
    const ids = new Set(Array.from({ length: 1 + randomInteger(random, 6) }, () => randomInteger(random, 9)));
    const weights = Array.from(ids, () => random());
    const total = weights.reduce((sum, one) => sum + one, 0.2);
    const row = rowOf(
      ...Array.from(ids, (id, at) => [id, (weights[at] ?? 0) / total] as const).toSorted((a, b) => b[1] - a[1]),
    );
    recycled.learn(before, last, row);
    plain.learn(before, last, row);
    const [first, second] = [randomInteger(random, 6), randomInteger(random, 6)];
    const found = recycled.likelyAfter(first, second);
    const expected = plain.after(first, second);
    const most = Math.max(0, ...expected.values());
    expect(found?.probability ?? 0).toBeCloseTo(most, 5);
    if (found) expect(expected.get(found.tokenId)).toBeCloseTo(most, 5);
  }
});

test("proposes a chain through the contexts that its own tokens make", () => {
  const recycled = new RecycledTokens();
  recycled.learn(1, 2, rowOf([3, 0.9], [4, 0.05]));
  recycled.learn(2, 3, rowOf([5, 0.8]));
  recycled.learn(9, 5, rowOf([6, 0.7]));
  const draft = recycled.propose(1, 2, 8);
  expect(draft?.source).toBe("recycled");
  // After 3 and 5 only the single token is known, and after 6 nothing.
  expect(draft?.tokenIds).toEqual([3, 5, 6]);
  for (const evidence of draft?.classes ?? []) expect(evidence).toBeLessThan(RECYCLED_CLASSES);
  expect(recycled.propose(1, 2, 2)?.tokenIds).toEqual([3, 5]);
  expect(recycled.propose(7, 8, 4)).toBeUndefined();
});

test("ends a chain before an unlikely token", () => {
  const recycled = new RecycledTokens();
  recycled.learn(1, 2, rowOf([3, 0.6]));
  recycled.learn(2, 3, rowOf([4, 0.08], [5, 0.07]));
  expect(recycled.propose(1, 2, 8)?.tokenIds).toEqual([3]);
});

test("tells evidence apart by probability, and by how often the two tokens were seen", () => {
  const classOf = (visits: number, probability: number): number => {
    const recycled = new RecycledTokens();
    for (let visit = 0; visit < visits; visit++) recycled.learn(1, 2, rowOf([3, probability]));
    return recycled.propose(1, 2, 1)?.classes[0] ?? -1;
  };
  expect(new Set([classOf(1, 0.5), classOf(9, 0.5), classOf(9, 0.9)]).size).toBe(3);
  expect(classOf(9, 0.501)).toBe(classOf(10, 0.502));
  const other = new RecycledTokens();
  other.learn(7, 2, rowOf([3, 0.9]));
  expect(other.propose(1, 2, 1)?.classes[0]).toBeLessThan(12);
});

test("forgets what the model no longer computes", () => {
  const recycled = new RecycledTokens();
  for (let row = 0; row < 200; row++) recycled.learn(1, 2, rowOf([3, 0.9]));
  for (let row = 0; row < 40; row++) recycled.learn(1, 2, rowOf([4, 0.9]));
  expect(recycled.likelyAfter(1, 2)?.tokenId).toBe(4);
});

const nextOf = (before: number, last: number): number => 1000 + 100 * before + last;

test("keeps nothing of one salt for another when the table is too small for both", () => {
  const tables = new RecycledTables(8, new Uint8Array(16));
  const [first, second] = [new RecycledTokens(tables, "a"), new RecycledTokens(tables, "b")];
  const random = seededRandom(5);
  let numFound = 0;
  for (let step = 0; step < 5000; step++) {
    const [before, last] = [randomInteger(random, 5), randomInteger(random, 5)];
    first.learn(before, last, rowOf([100, 1]));
    second.learn(before, last, rowOf([200, 1]));
    const found = [first, second].map((recycled) => recycled.likelyAfter(before, last)?.tokenId);
    for (const [index, tokenId] of found.entries()) {
      if (tokenId === undefined) continue;
      numFound++;
      expect(tokenId).toBe(100 * (index + 1));
    }
  }
  expect(numFound).toBeGreaterThan(1000);
});

test("keeps frequent contexts when the table is too small, and never answers for another context", () => {
  const recycled = new RecycledTokens(new RecycledTables(8));
  const random = seededRandom(4);
  for (let step = 0; step < 20_000; step++) {
    const isFrequent = step % 2 === 0;
    const [before, last] = isFrequent ? [1, 2] : [randomInteger(random, 50), 3 + randomInteger(random, 50)];
    recycled.learn(before, last, rowOf([nextOf(before, last), 1]));
  }
  expect(recycled.likelyAfter(1, 2)?.tokenId).toBe(nextOf(1, 2));
  for (let before = 0; before < 50; before++) {
    for (let last = 3; last < 53; last++) {
      const found = recycled.likelyAfter(before, last);
      // A token after `last` alone may have come after another token before it.
      if (found) expect(found.tokenId % 100).toBe(last % 100);
    }
  }
});

test("learns nothing from rows that are not finite, or have no candidates", () => {
  const recycled = new RecycledTokens();
  recycled.learn(1, 2, { ...rowOf([3, 0.5]), logSumExp: Number.NaN });
  recycled.learn(1, 2, { ...rowOf([3, 0.5]), logSumExp: Infinity });
  recycled.learn(1, 2, rowOf());
  recycled.learn(1, 2, rowOf([3, 0]));
  expect(recycled.propose(1, 2, 4)).toBeUndefined();
  recycled.learn(1, 2, rowOf([3, 0.9]));
  recycled.learn(1, 2, { candidateIds: Int32Array.of(4), candidateLogits: Float32Array.of(Number.NaN), logSumExp: 1 });
  expect(recycled.likelyAfter(1, 2)?.tokenId).toBe(3);
});

test("knows a first token without one before it", () => {
  const recycled = new RecycledTokens();
  recycled.learn(-1, 2, rowOf([3, 0.9]));
  expect(recycled.propose(-1, 2, 1)?.tokenIds).toEqual([3]);
});
