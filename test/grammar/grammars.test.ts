import type { EngineVocabulary } from "@readme-moe/core";
import { ANSWER_START, Grammars, type Constraint } from "@readme-moe/grammar";
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from "vitest";
import { taggedSource } from "../../packages/grammar/src/constraint.ts";
import { allowedAfter, smallVocabulary, textOf, writeBound } from "../support/bound-text.ts";
import { RUNS_LONG_TESTS } from "../support/long-tests.ts";
import { seededRandom } from "../support/random.ts";
import { expectReadMeError } from "../support/rejection.ts";

const vocabulary = smallVocabulary(["yes", "no", "</"]);
const ascii = (text: string): number[] => Array.from(Buffer.from(text));
let grammars: Grammars;
beforeAll(async () => {
  grammars = await Grammars.open(vocabulary);
});
afterAll(() => grammars.dispose());

async function texts(constraint: Constraint, count = 25): Promise<readonly string[]> {
  const random = seededRandom(4);
  const written: string[] = [];
  for (let patience = 0; patience < count; patience++) {
    const { text, isWhole } = await writeBound(constraint, vocabulary, random, { patience, maxTokens: 200 });
    if (isWhole) written.push(text);
  }
  expect(written.length).toBeGreaterThan(count / 2);
  return written;
}

test.each(["[a-f]+\\d{2}", "(foo|ba[rz])*", "^[a-f]{1,3}@\\w{1,3}\\.(com|org)$", 'x?"[^"]*"', "é{1,3}|\\D"])(
  "a text is what the regular expression %s matches as a whole",
  async (pattern) => {
    const whole = new RegExp(`^(?:${pattern})$`, "u");
    for (const text of await texts(await grammars.regex(pattern))) expect(text).toMatch(whole);
  },
);

test("allows one of the texts of a choice", async () => {
  const choices = ["yes", "no", 'a "quoted" one', "café \\ 中", "no way"];
  for (const text of await texts(await grammars.choice(choices), 60)) expect(choices).toContain(text);
});

test("allows texts of a grammar", async () => {
  const sums = await grammars.grammar('root ::= term ("+" term)*\nterm ::= [0-9] | "(" root ")"');
  for (const text of await texts(sums)) expect(text).toMatch(/^[0-9+()]+$/);
  expect((await allowedAfter(sums, vocabulary, ascii("(1+"))).filter((id) => id < 256)).toEqual(ascii("(0123456789"));
});

test("keeps grammars apart that are one text with different roots", async () => {
  const text = 'root ::= "yes" | no\nno ::= "no" word\nword ::= [a-c]';
  const patterns = { root: /^(yes|no[abc])$/, no: /^no[abc]$/, word: /^[abc]$/ };
  const roots = Object.keys(patterns) as (keyof typeof patterns)[];
  const bound = await Promise.all(roots.map((root) => grammars.grammar(text, root)));
  for (const [index, root] of [...roots.entries(), ...roots.entries()]) {
    // The second time it is cached.
    const again = await grammars.format({ type: "grammar", grammar: text, root });
    for (const constraint of [bound[index], again]) {
      for (const written of await texts(constraint as Constraint, 9)) expect(written).toMatch(patterns[root]);
    }
  }
});

const tag = (name: string) => ({ begin: `<t>${name}:`, schema: { type: "integer", minimum: 1 }, end: "</t>" });

test("allows tags alone, or within free text after a trigger", async () => {
  const tags = [tag("a"), tag("b")];
  const bound = await grammars.tagged({ tags, isSingle: true });
  for (const text of await texts(bound)) expect(text).toMatch(/^<t>[ab]:[1-9]\d*<\/t>$/);
  const many = await grammars.tagged({ tags });
  for (const text of await texts(many)) expect(text).toMatch(/^<t>[ab]:[1-9]\d*<\/t>(\n<t>[ab]:[1-9]\d*<\/t>)*$/);
  const free = await grammars.tagged({ tags, trigger: "<t>" });
  const [end] = vocabulary.eosTokenIds;
  expect(await allowedAfter(free, vocabulary, ascii("some text <"))).toContain(end);
  expect((await allowedAfter(free, vocabulary, ascii("text <t>"))).map((id) => textOf(vocabulary, [id])[0])).toEqual(
    ["a", "b", " a"].map((text) => text[0]).filter((text) => text !== " "),
  );
  expect(await allowedAfter(free, vocabulary, ascii("text <t>b:12</t> more"))).toContain(end);
});

test("allows further texts around the same JSON, after several triggers", async () => {
  const around = { begin: "<t>a:", schema: { type: "integer", minimum: 1 }, end: "</t>" };
  const both = [{ ...around, others: [{ begin: "(a ", end: ")" }] }];
  const free = await grammars.tagged({ tags: both, trigger: ["<t>", "(a"] });
  for (const [text, next] of [
    ["text <t>", "a"],
    ["text (a", " "],
    ["<t>a:12</t> (a 3", ")"],
  ] as const) {
    const allowed = (await allowedAfter(free, vocabulary, ascii(text))).map((id) => textOf(vocabulary, [id])[0]);
    expect(allowed).toContain(next);
    expect(allowed.length).toBeLessThan(20);
  }
});

/** Returns the text up to the end of the first trigger in it, or the whole text. */
function untilTrigger(text: string, triggers: readonly string[]): { readonly read: string; readonly isFound: boolean } {
  for (let end = 1; end <= text.length; end++) {
    const read = text.slice(0, end);
    if (triggers.some((trigger) => read.endsWith(trigger))) return { read, isFound: true };
  }
  return { read: text, isFound: false };
}

test.each(Array.from({ length: RUNS_LONG_TESTS ? 60 : 3 }, (_, seed) => seed))(
  "finds every trigger, also behind the beginning of another one (seed %i)",
  async (seed) => {
    const random = seededRandom(seed);
    const word = (most: number) =>
      Array.from({ length: 1 + Math.floor(random() * most) }, () => "abcéè"[Math.floor(random() * 5)]).join("");
    let numBound = 0;
    while (numBound < 20) {
      const triggers = Array.from({ length: 1 + Math.floor(random() * 4) }, () => word(5));
      const tags = triggers.map((begin) => ({ begin, schema: { enum: [7] }, end: "" }));
      const free = await grammars.tagged({ tags, trigger: triggers }).catch((error: unknown) => error);
      if (free instanceof TypeError) {
        expect(free.message).toBe("Expected triggers that do not overlap again and again");
        continue;
      }
      for (let count = 0; count < 8; count++) {
        const { read, isFound } = untilTrigger(word(12), triggers);
        const allowed = await allowedAfter(free as Constraint, vocabulary, ascii(read));
        if (isFound) numBound++;
        if (isFound) expect(allowed, `${read} in ${JSON.stringify(triggers)}`).toContain("7".charCodeAt(0));
        expect(allowed.length < 10, `${read} in ${JSON.stringify(triggers)}`).toBe(isFound);
      }
    }
  },
);

test("binds the beginning of the answer alone by a trigger that has to be there", async () => {
  const around = { schema: { enum: [7] }, end: ")" };
  const tags = [
    { ...around, begin: "[a" },
    { ...around, begin: `${ANSWER_START}(b` },
  ];
  const free = await grammars.tagged({ tags, trigger: ["[", `${ANSWER_START}(`] });
  const nextOf = (text: string) => allowedAfter(free, vocabulary, ascii(text));
  const [any, end] = [await nextOf(""), vocabulary.eosTokenIds[0]];
  expect(any.length).toBeGreaterThan(250);
  expect(any).toContain(end);
  for (const text of ["x(", " (", "(b7) and (", "\n("]) expect(await nextOf(text)).toEqual(any);
  for (const [text, next] of [
    ["(", "b"],
    ["(b", "7"],
    ["(b7", ")"],
    ["[", "a"],
    ["x[", "a"],
  ] as const) {
    expect(await nextOf(text), text).toEqual(ascii(next));
  }
});

test("writes the rules of a schema once, however many texts are around it", () => {
  const properties = Object.fromEntries(Array.from({ length: 30 }, (_, index) => [`name${index}`, { type: "string" }]));
  const around = { begin: "<a>", schema: { type: "object", properties }, end: "" };
  const others = ["<b>", "<c>", "<d>"].map((begin) => ({ begin, end: "" }));
  const [one, many] = [[], others].map((more) => taggedSource({ tags: [{ ...around, others: more }], trigger: "<" }));
  expect(many?.text).toContain(one?.text.split("\n").slice(2).join("\n"));
  expect(many?.text.length).toBeLessThan(1.1 * (one?.text.length ?? 0));
});

test.each([
  [{ tags: [] }, "at least one tag"],
  [{ tags: [tag("a")], trigger: ["<t>", "<u>"] }, "each trigger to begin a tag"],
  [{ tags: [tag("a")], trigger: "<t>b" }, "each trigger to begin a tag"],
  [{ tags: [tag("a"), { ...tag("b"), begin: "b" }], trigger: "<t>" }, "each tag to begin with a trigger"],
])("refuses tags and triggers that do not belong together: %j", async (answers, message) => {
  await expect(grammars.tagged(answers)).rejects.toThrow(new RegExp(message));
});

test("uses another schema where one is not supported, or refuses it by its name", async () => {
  const odd = { begin: "<t>", schema: { not: {} }, end: "</t>", name: "mine" };
  await expect(grammars.tagged({ tags: [odd] })).rejects.toThrow(/^mine: .*`not`/);
  const bound = await grammars.tagged({ tags: [{ ...odd, fallback: { enum: [7] } }] });
  expect(await allowedAfter(bound, vocabulary, ascii("<t>"))).toEqual(ascii("7"));
});

test("sets forbidden tokens to -Infinity and keeps all other logits", async () => {
  const process = (await grammars.choice(["yes", "no"])).processor();
  const logits = Float32Array.from({ length: vocabulary.vocabSize }, (_, id) => id);
  await process(logits, { tokenIds: new Int32Array(), promptTokens: 0, choice: 0 });
  const kept = Array.from(logits.keys()).filter((id) => logits[id] !== -Infinity);
  expect(kept.map((id) => textOf(vocabulary, [id])).toSorted()).toEqual(["n", "no", "y", "yes"]);
  for (const id of kept) expect(logits[id]).toBe(id);
});

test("keeps choices independent, and answers repeated and earlier questions", async () => {
  const process = (await grammars.regex("(ab)*")).processor();
  const allowed = async (text: string, choice: number): Promise<readonly string[]> => {
    const logits = new Float32Array(vocabulary.vocabSize);
    await process(logits, { tokenIds: Int32Array.from([9, ...ascii(text)]), promptTokens: 1, choice });
    return ["a", "b"].filter((letter) => logits[letter.charCodeAt(0)] !== -Infinity);
  };
  for (const [text, choice] of [
    ["a", 0],
    ["", 1],
    ["a", 0],
    ["ab", 0],
    ["a", 1],
    ["aba", 0],
    ["a", 0],
    ["", 0],
  ] as const) {
    expect(await allowed(text, choice)).toEqual([text.length % 2 === 0 ? "a" : "b"]);
  }
  const together = await Promise.all(
    Array.from({ length: 100 }, (_, choice) => allowed("ab".repeat(choice % 3), choice)),
  );
  expect(together).toEqual(Array.from({ length: 100 }, () => ["a"]));
});

describe("errors", () => {
  test("name the fault of a grammar", async () => {
    await expect(grammars.grammar("root ::= (")).rejects.toThrow(/^The grammar cannot be compiled: EBNF/);
    await expect(grammars.grammar('other ::= "a"')).rejects.toThrow(TypeError);
    await expect(grammars.grammar("root ::= [é-ü]")).rejects.toThrow("ASCII");
    await expect(grammars.grammar("root ::= [\\u00e9]")).rejects.toThrow("ASCII");
    await expect(grammars.regex("(?<=a)b")).rejects.toThrow(TypeError);
    await expect(grammars.choice([])).rejects.toThrow("`texts`");
    await expect(grammars.choice(["a", 1 as never])).rejects.toThrow("`texts`");
    await expect(grammars.grammar("x".repeat(300_000))).rejects.toThrow(RangeError);
  });

  test("name tokens that are not in the grammar", async () => {
    const process = (await grammars.choice(["yes"])).processor();
    const row = new Float32Array(vocabulary.vocabSize);
    const context = { tokenIds: Int32Array.from(ascii("no")), promptTokens: 0, choice: 0 };
    await expect(process(row, context)).rejects.toThrow("a token is not in the grammar");
    await expect(process(row, { ...context, tokenIds: Int32Array.from(ascii("y")) })).resolves.toBeUndefined();
  });

  test("name wrong options, and a model without an end token", async () => {
    await expect(Grammars.open(vocabulary, { maxGrammars: 0 })).rejects.toThrow("`maxGrammars`");
    await expect(Grammars.open(vocabulary, { maxGramars: 2 } as never)).rejects.toThrow("maxGrammars");
    await expect(Grammars.open({ ...vocabulary, eosTokenIds: [] })).rejects.toThrow("end token");
  });
});

describe("hostile grammars", () => {
  const slow = 'root ::= (a a a a a a a a)*\na ::= ("x" | "x" a | a "x")? [a-z]{0,400} [a-y]{0,400}';

  test("are refused when they take too long, also the second time, without harm to others", async () => {
    const hasty = await Grammars.open(vocabulary, { maxCompileMs: 1 });
    await expect(hasty.grammar(slow)).rejects.toThrow("within 1 ms");
    await expect(hasty.grammar(slow)).rejects.toThrow("within 1 ms");
    await hasty.dispose();
    const kept = await grammars.choice(["yes"]);
    expect(await texts(kept)).toContain("yes");
  });

  test("are refused when they take too much memory", async () => {
    const vocabSize = 100_000;
    const large: EngineVocabulary = {
      vocabSize,
      bytes: Uint8Array.from({ length: 40 * vocabSize }, (_, index) => 97 + ((index * 7919 + (index >> 5)) % 26)),
      offsets: Uint32Array.from({ length: vocabSize + 1 }, (_, id) => 40 * Math.min(id, vocabSize - 1)),
      eosTokenIds: [vocabSize - 1],
    };
    // Little more memory than the library starts with.
    const poor = await Grammars.open(large, { maxBytes: 17_000_000 });
    await expect(poor.choice(["no"])).rejects.toThrow(RangeError);
    await expect(poor.choice(["no"])).rejects.toThrow("memory");
    await poor.dispose();
    const rich = await Grammars.open(large);
    await expect(rich.choice(["no"])).resolves.toBeDefined();
    await rich.dispose();
  });

  test("fail only the answer that takes too long to match", async () => {
    const hasty = await Grammars.open(vocabulary, { maxMaskMs: 1 });
    const [constraint, other] = [await hasty.regex("(x|xx|y)*"), await grammars.regex("(x|xx|y)*")];
    const long = Array<number>(300_000).fill("x".charCodeAt(0));
    await expect(allowedAfter(constraint, vocabulary, long)).rejects.toThrow("within 1 ms");
    expect(await allowedAfter(other, vocabulary, ascii("x"))).toContain("y".charCodeAt(0));
    await hasty.dispose();
  });
});

describe("limits", () => {
  test("evict grammars, which are compiled again when they are needed", async () => {
    const few = await Grammars.open(vocabulary, { maxGrammars: 2 });
    const words = ["yes", "no", "bb"];
    const constraints = await Promise.all(words.map((word) => few.choice([word])));
    const written = await Promise.all(
      [...constraints, ...constraints].map((one) => writeBound(one, vocabulary, seededRandom(1))),
    );
    expect(written.map(({ text }) => text)).toEqual([...words, ...words]);
    await few.dispose();
  });

  test("leave out the time in which this process was suspended", async () => {
    const own = await Grammars.open(vocabulary);
    const constraint = await own.choice(["yes"]);
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    onTestFinished(() => void vi.useRealTimers());
    const allowed = allowedAfter(constraint, vocabulary, ascii("y"));
    for (let turns = 0; turns < 100 && vi.getTimerCount() === 0; turns++) await Promise.resolve();
    expect(vi.getTimerCount()).toBe(1);
    // A process that goes on sees first that time is over, and then what its threads had sent.
    vi.runOnlyPendingTimers();
    expect(await allowed).toContain("e".charCodeAt(0));
    await own.dispose();
  });

  test("refuse more waiting grammars than allowed", async () => {
    const busy = await Grammars.open(vocabulary, { maxWaiting: 1 });
    const first = busy.choice(["a"]);
    await expectReadMeError(busy.choice(["b"]), "ERR_QUEUE_FULL");
    await expect(busy.choice(["a"])).resolves.toBeDefined();
    await first;
    await busy.dispose();
  });

  test("reject waiting calls after disposal", async () => {
    const gone = await Grammars.open(vocabulary);
    const constraint = await gone.choice(["a"]);
    const waiting = gone.choice(["b"]);
    await gone.dispose();
    await expectReadMeError(waiting, "ERR_DISPOSED");
    await expectReadMeError(allowedAfter(constraint, vocabulary, []), "ERR_DISPOSED");
    await gone.dispose();
  });
});
