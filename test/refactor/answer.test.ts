// The command `answer`: chats from prompts of a file, and from questions that the model makes itself.

import { cp, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { seededRandom } from "@readme-moe/core";
import { beforeAll, expect, test } from "vitest";
import { LANGUAGES, readProblems } from "../../bench/problems/problems.ts";
import { CODE_STARTS, type Draw, KINDS, startQuestion, WORDS } from "../../packages/refactor/src/answers/kinds.ts";
import { endQuestion, headOf, keyOf } from "../../packages/refactor/src/answers/questions.ts";
import * as fc from "../support/fast-check.ts";
import { POCKET } from "../support/pocket.ts";
import { runCli } from "../support/run-cli.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const folder = await persistentFolder();
const chatty = join(folder, "chatty");
const TEMPLATE =
  "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system message') }}{% endif %}" +
  "<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";

beforeAll(async () => {
  await cp(POCKET, chatty, { recursive: true });
  await writeFile(join(chatty, "chat_template.jinja"), TEMPLATE);
});

async function textsOf(path: string): Promise<readonly string[]> {
  const lines = (await readFile(path, "utf8")).trim().split("\n");
  return lines.map((line) => (JSON.parse(line) as { text: string }).text);
}

test("`answer` writes chats as data, the same ones with the same seed", async () => {
  const prompts = join(folder, "prompts.txt");
  await writeFile(prompts, "Who are you?\n\nWhat is rain?\n");
  const [first, second] = ["a.jsonl", "b.jsonl"].map((name) => join(folder, name)) as [string, string];
  for (const out of [first, second]) {
    const result = await runCli(["answer", chatty, "--prompts", prompts, "--out", out, "--max-new-tokens", "8"]);
    expect(result.code, result.stderr).toBe(0);
  }
  expect(await readFile(second, "utf8")).toBe(await readFile(first, "utf8"));
  const chats = await textsOf(first);
  expect(chats).toHaveLength(2);
  // An answer that is cut short has no end.
  expect(chats[1]).toMatch(/^<user>What is rain\?<\/user><assistant>.+(?<!<\/assistant>)$/s);
  const again = await runCli(["answer", chatty, "--prompts", prompts, "--out", first]);
  expect(again.code).toBe(1);
  expect(again.stderr).toMatch(/exists already/);
});

test("`answer` makes questions of each kind, the same ones with the same seed", async () => {
  const call = (out: string, ...more: readonly string[]): ReturnType<typeof runCli> =>
    runCli(["answer", chatty, "--questions", "3", "--max-new-tokens", "6", "--out", join(folder, out), ...more]);
  const first = await call("first", "--kinds", "python", "json", "Slow food!");
  expect(first, first.stderr).toMatchObject({ code: 0, stderr: "" });
  const second = await call("second", "--kinds", "Slow food!", "python", "--seed", "1");
  expect(second.code, second.stderr).toBe(0);
  for (const name of ["python.jsonl", "slow-food.jsonl"]) {
    expect(await readFile(join(folder, "second", name), "utf8")).toBe(
      await readFile(join(folder, "first", name), "utf8"),
    );
  }
  const asked = await textsOf(join(folder, "first", "python.jsonl"));
  expect(asked).toHaveLength(3);
  for (const text of asked) expect(text).toMatch(/^<user>.*(?:Python).*<\/user><assistant>/s);
  // Answers to requests for JSON are bound to the schema.
  for (const text of await textsOf(join(folder, "first", "json.jsonl"))) expect(text).toMatch(/<assistant>\s*\{\s*"/);
  const again = await call("first", "--kinds", "go", "json");
  expect(again.stderr).toMatch(/json\.jsonl: exists already/);
});

test.each([
  [["--out", "x"], /required option '--prompts'/],
  [["--questions", "3"], /required option '--out'/],
  [["--questions", "0", "--out", "x"], /Expected/],
  [["--questions", "3", "--prompts", "p.txt", "--out", "x"], /cannot be used with option '--prompts/],
  [["--kinds", "sql", "--prompts", "p.txt", "--out", "x"], /cannot be used with option '--prompts/],
  [["--questions", "3", "--kinds", "?!", "--out", "x"], /`--kinds`.*got "\?!"/],
  [["--questions", "3", "--kinds", "tools", "--out", "x"], /`--kinds` without tools/],
  [["--questions", "3", "--kinds", "a b", "A-B", "--out", "x"], /`--kinds`.*got "A-B"/],
])("`answer` refuses %j", async (flags, message) => {
  const { code, stderr } = await runCli(["answer", chatty, ...flags]);
  expect(code).toBeGreaterThan(0);
  expect(stderr).toMatch(message);
});

test.each([
  ["Write a function that", " adds. Here is", true, "Write a function that adds. Here is", false],
  ["Write a function that", " adds two numbers. Here is", true, "Write a function that adds two numbers.", true],
  ["Explain", ' why "it" runs (or not). For example:', false, 'Explain why "it" runs (or not).', true],
  ["How do I", " round 2.5 upwards", false, "How do I round 2.5 upwards", true],
  ["How do I", " round 2.5 upwards", true, "", false],
  ["Do this", " in the following order:", false, "", false],
  ["Sort orders", "?", false, "", false],
])("a question %j + %j ends behind its last whole sentence", (opening, added, isCutShort, question, isKept) => {
  expect(endQuestion(opening, added, isCutShort)).toBe(isKept ? question : undefined);
});

test("questions with the same beginning, or requests for JSON of the same message, are the same", () => {
  const schema = { type: "json_schema", schema: true } as const;
  expect(keyOf({ content: "Sort  *Orders* by price" })).toBe(keyOf({ content: "sort orders, by price" }));
  expect(keyOf({ content: "Sort orders" })).not.toBe(keyOf({ content: "Sort tasks" }));
  expect(keyOf({ content: "什么是雨？" })).not.toBe(keyOf({ content: "什么是雪？" }));
  expect(keyOf({ content: "Parse\n\n{}\n\nText: Hi", format: schema })).toBe(
    keyOf({ content: "Read\n\n{1}\n\nText: Hi", format: schema }),
  );
});

test("the head of a program is its first function's, up to where the body begins", () => {
  const { python, typescript } = CODE_STARTS;
  const head = 'def rank(books: List[str]) -> int:\n    """Rank.\n\n    >>> rank([])\n    0\n    """\n';
  expect(headOf(`${head}    return 0\n`, python)).toBe(head);
  expect(headOf(head.slice(0, -python.headEnd.length), python)).toBe(head);
  expect(headOf("def rank(books: List[str]) -> int:\n    return 0\n", python)).toBeUndefined();
  const comment = "/** Ranks books. */\nexport function rank(books: readonly string[]): { a: number } ";
  expect(headOf(comment, typescript)).toBe(`${comment}{\n`);
  expect(headOf("/** Ranks books. */\nconst a = 1;", typescript)).toBeUndefined();
});

test("questions begin with filled openings, and what they need comes with them", () => {
  fc.assert(
    fc.property(fc.nat(), fc.constantFrom(...KINDS, "cheese"), (seed, kind) => {
      const { opening, about, asks, format, tools, code } = startQuestion(kind, drawWith(seed));
      expect(opening).not.toMatch(/\{\w+\}|undefined/);
      if (kind === "cheese") expect(about).toMatch(/questions about cheese/);
      expect(tools !== undefined).toBe(kind === "tools");
      expect(code !== undefined).toBe(kind === "code");
      expect(format !== undefined && asks !== undefined).toBe(kind === "json");
      if (format?.type !== "json_schema" || typeof format.schema === "boolean") return;
      for (const name of Object.keys(format.schema["properties"] ?? {})) expect(asks).toContain(`${name}: `);
    }),
  );
});

test("no question begins with a problem that models are measured by", async () => {
  const problems = (await Promise.all(LANGUAGES.map(readProblems))).flat();
  const names = problems.map(({ name }) => wordsOf(name));
  const openings = Array.from({ length: 4000 }, (_, seed) =>
    startQuestion(KINDS[seed % KINDS.length] as string, drawWith(seed)),
  );
  for (const { opening, code } of openings) {
    const text = ` ${wordsOf(opening)} ${wordsOf(code?.example ?? "")} `;
    const found = names.filter((name) => name.includes(" ") && text.includes(` ${name} `));
    expect(found, opening).toEqual([]);
  }
  const words = Object.values(WORDS).flat().map(wordsOf);
  expect(words.filter((word) => names.some((name) => name === word || `${name}s` === word))).toEqual([]);
  const called = WORDS.verb.flatMap((verb) => WORDS.topic.map((topic) => wordsOf(`${verb} ${topic}`)));
  expect(called.filter((name) => names.includes(name))).toEqual([]);
});

function drawWith(seed: number): Draw {
  const random = seededRandom(seed);
  return (items) => items[Math.floor(random() * items.length)] as (typeof items)[number];
}

/** Returns the words of a text or a name, in small letters with spaces between. */
function wordsOf(text: string): string {
  return text
    .replace(/([a-z])([A-Z])/g, "$1 $2")
    .toLowerCase()
    .replace(/\W+|_/g, " ")
    .trim();
}
