import { beforeAll, describe, expect, it } from "vitest";
import { mergeMemory, PairTable, type SymbolPair, WordMerge } from "../../packages/model/src/text/bpe-model.ts";
import { CHUNK_LENGTH, finish, normalizeInChunks } from "../../packages/model/src/text/pausing.ts";
import { Tokenizer } from "../../packages/model/src/text/tokenizer.ts";
import { libraryEncoder } from "../oracles/library-tokenizer.ts";
import { HOSTILE_UNITS, hostileTexts, randomTexts, tokenizerSources } from "../support/hostile-texts.ts";
import { RUNS_LONG_TESTS } from "../support/long-tests.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { expectThrownReadMeError, trickyTexts } from "../support/tokenizer-definitions.ts";

const FORMS = ["NFC", "NFD", "NFKC", "NFKD"] as const;

let sources: Awaited<ReturnType<typeof tokenizerSources>>;
let tokenizers: readonly { readonly name: string; readonly tokenizer: Tokenizer }[];

beforeAll(async () => {
  sources = await tokenizerSources();
  tokenizers = sources.map((source) => ({ name: source.name, tokenizer: new Tokenizer(source) }));
});

describe("ids", () => {
  it("are those of the library, for every kind of tokenizer, on random, tricky and hostile texts", () => {
    const texts = [
      ...trickyTexts(80),
      ...randomTexts(100, 7, ["<s>", "<think>", "<|im_start|>"]),
      ...hostileTexts(500),
    ];
    for (const [index, source] of sources.entries()) {
      const encode = libraryEncoder(source);
      const tokenizer = tokenizers[index]?.tokenizer;
      for (const [at, text] of texts.entries()) {
        if (!isFair(source.name, text)) continue;
        if (!RUNS_LONG_TESTS && (at + index) % 3 !== 0) continue;
        for (const addSpecialTokens of RUNS_LONG_TESTS ? [true, false] : [(at + index) % 2 === 0]) {
          const ids = tokenizer?.encode(text, { addSpecialTokens }) ?? [];
          expect([...ids], `${source.name}: ${JSON.stringify(text.slice(0, 200))}`).toEqual(
            encode(text, addSpecialTokens),
          );
        }
      }
    }
  });

  it("are those of the library for texts that are longer than a chunk", () => {
    const parts = ["ab ", "e\u0301\u0316", "中文", " \n", "aA", "😀"];
    const random = seededRandom(11);
    const text = Array.from(
      { length: RUNS_LONG_TESTS ? 12_000 : 9000 },
      () => parts[randomInteger(random, parts.length)],
    ).join("");
    for (const [index, source] of sources.entries()) {
      if (!isFair(source.name, text)) continue;
      const ids = tokenizers[index]?.tokenizer.encode(text) ?? [];
      expect(
        Buffer.from(Int32Array.from(ids).buffer).equals(
          Buffer.from(Int32Array.from(libraryEncoder(source)(text, true)).buffer),
        ),
        source.name,
      ).toBe(true);
    }
  });

  it("of interleaved texts are those of each text alone", () => {
    for (const { tokenizer } of tokenizers) {
      const texts = randomTexts(4, 3).map((text) => text.repeat(20));
      const works = texts.map((text) => tokenizer.encodeInSteps(text));
      const results: (Int32Array | undefined)[] = texts.map(() => undefined);
      while (results.includes(undefined)) {
        for (const [index, work] of works.entries()) {
          const { done, value } = results[index] ? { done: false, value: undefined } : work.next();
          if (done === true) results[index] = value;
        }
      }
      expect(results).toEqual(texts.map((text) => tokenizer.encode(text)));
    }
  });
});

describe("merging a word", () => {
  it("merges the lowest rank first and the leftmost of equals, like a plain search", () => {
    const random = seededRandom(5);
    for (let round = 0; round < 300; round++) {
      const pairs = randomPairs(random);
      const table = new PairTable(pairs);
      const symbols = Array.from(
        { length: 1 + randomInteger(random, 120) },
        () => randomInteger(random, 4) - (random() < 0.05 ? 9 : 0),
      );
      expect(mergedInSteps(table, symbols, 1 + randomInteger(random, 9))).toEqual(plainMerge(pairs, symbols));
    }
  });

  it("takes a number of steps that grows with the length, not with its square", () => {
    const table = new PairTable(Array.from({ length: 12 }, (_, rank): SymbolPair => [rank, rank, rank + 1]));
    const steps = [20_000, 40_000].map((length) => {
      const memory = mergeMemory(length);
      const merge = new WordMerge(table, memory, length);
      let count = 1;
      while (!merge.run(1)) count++;
      return count;
    });
    expect((steps[1] as number) / (steps[0] as number)).toBeLessThan(2.1);
  });
});

describe("hostile texts of 300,000 characters", () => {
  it("are encoded in many steps, by every kind of tokenizer", () => {
    for (const [index, { name, tokenizer }] of tokenizers.entries()) {
      for (const [at, unit] of HOSTILE_UNITS.entries()) {
        // Every tokenizer takes some texts, and every text is for some tokenizers; the long tests take all.
        if (!RUNS_LONG_TESTS && (at + index) % 9 !== 0) continue;
        const text = unit.repeat(Math.ceil(3e5 / unit.length));
        const what = `${name} on ${JSON.stringify(unit)}`;
        const work = tokenizer.encodeInSteps(text);
        let numSteps = 0;
        // Steps after these are like them.
        while (numSteps < 24 && work.next().done !== true) numSteps++;
        // A step reads a chunk at most.
        expect(numSteps, what).toBeGreaterThanOrEqual(Math.floor(text.length / CHUNK_LENGTH));
      }
    }
  });

  it("are decoded to the same texts", () => {
    const { tokenizer } = tokenizers[0] ?? {};
    for (const unit of [" ", "a", "中", "\n"]) {
      const text = unit.repeat(300_000);
      expect(tokenizer?.decode(tokenizer.encode(text)) === text).toBe(true);
    }
  });
});

describe("normalizing in chunks", () => {
  it.each(FORMS)(
    "is %s of the whole text",
    (form) => {
      for (const text of [...randomTexts(100, 21), ...hostileTexts(RUNS_LONG_TESTS ? 40_000 : 20_000)]) {
        const normalized = finish(normalizeInChunks(text, form));
        expect(normalized === text.normalize(form), JSON.stringify(text.slice(0, 40))).toBe(true);
      }
    },
    240_000,
  );

  it("orders every mark as Unicode does", () => {
    const marks = codePoints().filter((character) => /\p{M}/u.test(character));
    const random = seededRandom(2);
    for (let round = 0; round < 60; round++) {
      const run = Array.from(
        { length: 60 + randomInteger(random, 60) },
        () => marks[randomInteger(random, marks.length)],
      ).join("");
      for (const form of FORMS) expect(finish(normalizeInChunks(`a${run}b`, form))).toBe(`a${run}b`.normalize(form));
    }
  });

  it("cuts before no character that affects those before it", () => {
    const [composing, compatible] = (["NFD", "NFKD"] as const).map((form) => {
      const later = new Set<string>();
      for (const character of codePoints())
        for (const part of Array.from(character.normalize(form)).slice(1)) later.add(part);
      return [...later].filter((part) => !/^[\p{M}\u1160-\u11ff\ud7b0-\ud7ff\u{16d40}-\u{16d7f}]/u.test(part));
    });
    // A decomposition may have further characters, such as letters of a ligature; none of them ever composes.
    for (const part of new Set([...(composing ?? []), ...(compatible ?? [])])) {
      for (const before of ["a", "가", "각", "あ", "क", part]) {
        expect((before + part).normalize("NFC")).toBe(before.normalize("NFC") + part.normalize("NFC"));
      }
    }
  });
});

describe("a limit on the number of tokens", () => {
  it("refuses a text as soon as it has more", () => {
    for (const { tokenizer } of tokenizers) {
      const work = tokenizer.encodeInSteps("ab ".repeat(RUNS_LONG_TESTS ? 400_000 : 50_000), { maxTokens: 1000 });
      expectThrownReadMeError(() => finish(work), "ERR_CONTEXT_LENGTH", "1000");
      const length = tokenizer.encode("hello there").length;
      expect(tokenizer.encode("hello there", { maxTokens: length })).toHaveLength(length);
      expectThrownReadMeError(() => tokenizer.encode("hello there", { maxTokens: length - 1 }), "ERR_CONTEXT_LENGTH");
    }
  });

  it("refuses a long word before its merges", () => {
    const { tokenizer } = tokenizers.find(({ name }) => name === "pocket") ?? {};
    const numSteps = (options: object): number => {
      let count = 0;
      const work = tokenizer?.encodeInSteps("a".repeat(400_000), options);
      try {
        while (work?.next().done === false) count++;
      } catch {
        return count;
      }
      return count;
    };
    expect(numSteps({ maxTokens: 1000 })).toBeLessThan(numSteps({}) / 2);
  });

  it("is compared with a bound that never exceeds the number of a text's tokens", () => {
    const texts = HOSTILE_UNITS.map((unit) => unit.repeat(Math.ceil(2000 / unit.length)));
    for (const [index, { name, tokenizer }] of tokenizers.entries()) {
      for (const [at, text] of texts.entries()) {
        if (!RUNS_LONG_TESTS && (at + index) % 3 !== 0) continue;
        const { length } = tokenizer.encode(text);
        expect(tokenizer.encode(text, { maxTokens: length }).length, name).toBe(length);
      }
    }
  });
});

/** The library also puts a prefix into the middle of characters beyond U+FFFF, unlike the reference. */
function isFair(name: string, text: string): boolean {
  return name !== "a prefix" || !/[\u{10000}-\u{10ffff}]/u.test(text);
}

function randomPairs(random: () => number): SymbolPair[] {
  const pairs: SymbolPair[] = [];
  for (let merged = 4; merged < 24; merged++)
    pairs.push([randomInteger(random, merged), randomInteger(random, merged), merged]);
  return pairs;
}

function mergedInSteps(table: PairTable, symbols: readonly number[], steps: number): number[] {
  const memory = mergeMemory(symbols.length);
  memory.symbols.set(symbols);
  const merge = new WordMerge(table, memory, symbols.length);
  while (!merge.run(steps));
  const merged: number[] = [];
  for (let at = 0; at >= 0;) at = merge.forEach(at, 3, (symbol) => merged.push(symbol));
  return merged;
}

function plainMerge(pairs: readonly SymbolPair[], symbols: readonly number[]): number[] {
  const word = [...symbols];
  for (;;) {
    let best = -1;
    let bestAt = -1;
    for (let at = 0; at + 1 < word.length; at++) {
      const rank = pairs.findLastIndex(([left, right]) => left === word[at] && right === word[at + 1]);
      if (rank >= 0 && (best < 0 || rank < best)) [best, bestAt] = [rank, at];
    }
    if (best < 0) return word;
    word.splice(bestAt, 2, pairs[best]?.[2] ?? 0);
  }
}

let assigned: readonly string[] | undefined;

/** All characters that Unicode assigns; no form changes the others. */
function codePoints(): readonly string[] {
  assigned ??= Array.from({ length: 0x110000 }, (_, point) => point)
    .filter((point) => point < 0xd800 || point > 0xdfff)
    .map((point) => String.fromCodePoint(point))
    .filter((character) => /[^\p{Cn}\p{Co}]/u.test(character));
  return assigned;
}
