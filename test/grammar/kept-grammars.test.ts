// The compiled grammars that are kept, observed by the threads that start when one is compiled again.

import { Grammars, type Constraint } from "@readme-moe/grammar";
import { afterEach, beforeEach, describe, expect, onTestFinished, test, vi } from "vitest";
import { allowedAfter, smallVocabulary } from "../support/bound-text.ts";
import { RUNS_LONG_TESTS } from "../support/long-tests.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

const vocabulary = smallVocabulary();
let numStarted = 0;
const onWorker = (): void => void numStarted++;
beforeEach(() => {
  process.on("worker", onWorker);
  // No grammar is unused for long, however busy the machine is.
  let nowMs = 0;
  vi.spyOn(performance, "now").mockImplementation(() => nowMs++);
});
afterEach(() => {
  process.off("worker", onWorker);
  vi.restoreAllMocks();
});

const WORDS = ["a", "b", "c", "d", "e"] as const;
type Word = (typeof WORDS)[number];
/** Uses a grammar for a client. */
type Use = (word: Word, client?: string) => Promise<"kept" | "compiled">;

/** Grammars of single words, of which a number is kept. */
async function keeping(maxGrammars: number): Promise<Use> {
  const grammars = await Grammars.open(vocabulary, { maxGrammars });
  onTestFinished(() => grammars.dispose());
  return async (word, client) => {
    const before = numStarted;
    await grammars.choice([word], { client });
    expect(numStarted - before).toBeLessThanOrEqual(1);
    return numStarted === before ? "kept" : "compiled";
  };
}

describe("the grammar that is evicted out of three", () => {
  test.each(["me", undefined])("is the least recently used one, not the oldest (client %s)", async (client) => {
    const use = await keeping(3);
    for (const word of ["a", "b", "c"] as const) expect(await use(word, client)).toBe("compiled");
    expect(await use("a", client)).toBe("kept");
    expect(await use("d", client)).toBe("compiled");
    for (const word of ["a", "c", "d"] as const) expect(await use(word, client), word).toBe("kept");
    expect(await use("b", client)).toBe("compiled");
  });

  test("belongs to the client with the most grammars, even if another is older", async () => {
    const use = await keeping(3);
    await use("a", "modest");
    await use("b", "greedy");
    await use("c", "greedy");
    expect(await use("b", "greedy")).toBe("kept");
    expect(await use("d", "new")).toBe("compiled");
    expect(await use("a", "modest")).toBe("kept");
    expect(await use("b", "greedy")).toBe("kept");
    expect(await use("c", "greedy")).toBe("compiled");
  });

  test("counts for the client that used it last", async () => {
    const use = await keeping(3);
    await use("a", "first");
    await use("b", "first");
    await use("c", "second");
    // Now two belong to the second client, whose older one is evicted.
    expect(await use("a", "second")).toBe("kept");
    expect(await use("d", "third")).toBe("compiled");
    expect(await use("b", "first")).toBe("kept");
    expect(await use("a", "second")).toBe("kept");
    expect(await use("c", "second")).toBe("compiled");
  });
});

test("counts answers as use, and compiles an evicted grammar again for its answers", async () => {
  const grammars = await Grammars.open(vocabulary, { maxGrammars: 2 });
  onTestFinished(() => grammars.dispose());
  const client = "me";
  const constraints = new Map<string, Constraint>();
  const bind = async (word: string): Promise<void> =>
    void constraints.set(word, await grammars.choice([word], { client }));
  const started = async (word: string): Promise<number> => {
    const before = numStarted;
    expect(await allowedAfter(constraints.get(word) as Constraint, vocabulary, [])).toEqual([word.charCodeAt(0)]);
    return numStarted - before;
  };
  await bind("a");
  await bind("b");
  expect(await started("a")).toBe(0);
  await bind("c");
  expect(await started("a")).toBe(0);
  expect(await started("b")).toBe(1);
});

interface Kept {
  readonly word: Word;
  readonly client: string;
}

/** Finds, among the grammars of the clients with the most, the least recently used one. */
function leaving(kept: readonly Kept[]): Kept | undefined {
  const numOf = (client: string): number => kept.filter((one) => one.client === client).length;
  const most = Math.max(...kept.map(({ client }) => numOf(client)));
  return kept.find(({ client }) => numOf(client) === most);
}

test.each(RUNS_LONG_TESTS ? [1, 2, 3, 4, 5] : [1, 4])(
  "what is kept is what a plain list keeps, for any use by three clients (seed %i)",
  async (seed) => {
    const random = seededRandom(seed);
    const size = 2 + randomInteger(random, 3);
    const use = await keeping(size);
    /** The most recently used grammar is last. */
    let kept: readonly Kept[] = [];
    let numKept = 0;
    for (let count = 0; count < 40; count++) {
      const word = WORDS[randomInteger(random, WORDS.length)] as Word;
      const client = `client-${randomInteger(random, 3)}`;
      const isKept = kept.some((one) => one.word === word);
      const gone = isKept || kept.length < size ? undefined : leaving(kept);
      kept = [...kept.filter((one) => one !== gone && one.word !== word), { word, client }];
      expect(await use(word, client), `use ${count}, of ${word} by ${client}`).toBe(isKept ? "kept" : "compiled");
      if (isKept) numKept++;
    }
    expect(numKept).toBeGreaterThan(5);
    expect(numKept).toBeLessThan(35);
  },
);
