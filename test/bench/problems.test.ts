// The judge of programs that models write: what hangs, forks, floods or leaves early is never solved.

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { judgeFields, KINDS, listCases, untilSuffix } from "../../bench/problems/cases.ts";
import { faultsOf } from "../../bench/problems/check.ts";
import {
  gapOf,
  jobOf,
  type Language,
  LANGUAGES,
  type Problem,
  programOf,
  readProblems,
} from "../../bench/problems/problems.ts";
import { comparisonTable, resumable, type Result, type Run, runTable } from "../../bench/problems/results.ts";
import { canRun, isIsolated, type Job, type Limits, runJob, type Verdict } from "../../bench/problems/sandbox.ts";
import { seededRandom } from "@readme-moe/core";
import { mcNemarExact, wilsonInterval } from "../../bench/kit/statistics.ts";

const hasPython = canRun("python");
const whenPython = test.skipIf(!hasPython);
/** For programs that only a limit ends. */
const QUICK = { wallMs: 1500, cpuSeconds: 2, memoryBytes: 2 ** 30 };

const TESTS: Job["tests"] = [
  { before: "", actual: "two()", expected: "2" },
  { before: "", actual: "two() + 1", expected: "3" },
];

async function run(language: Language, code: string, tests = TESTS, limits?: Limits): Promise<Verdict> {
  return runJob(language, await jobOf({ language, tests }, code), limits);
}

async function expectRefused(language: Language, code: string, why: RegExp): Promise<void> {
  const limits = why.source.includes("more than") ? QUICK : undefined;
  const verdict = await run(language, code, TESTS, limits).catch((error: unknown) => ({
    isSolved: false,
    why: String(error),
  }));
  expect(verdict).toEqual({ isSolved: false, why: expect.stringMatching(why) as string });
}

/** Programs that do not solve, and what the verdict says. */
const BAD_SCRIPTS: readonly (readonly [what: string, code: string, why: RegExp])[] = [
  ["is wrong", "function two() { return 3; }", /two\(\): got 3/],
  ["throws", "function two() { throw new Error('x'); }", /Error: x/],
  ["is no program", "function two( {", /Transform|Error/],
  ["hangs", "for (;;);", /ended before|more than/],
  ["never resolves", "async function two() { await new Promise(() => undefined); }", /ended before/],
  ["sleeps on", "function two() { Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0); }", /more than/],
  ["ends early with 0", "process.exit(0);", /ended before/],
  ["ends in a test", "function two() { process.exit(0); }", /ended before/],
  ["is killed", "process.kill(process.pid, 'SIGKILL');", /ended before/],
  ["floods the output", "for (;;) require('node:fs').writeSync(1, 'x'.repeat(1e5));", /ended before|more than/],
  ["writes a verdict", `require('node:fs').writeSync(3, '{"secret":"","passed":2}'); process.exit(0);`, /ended before/],
  ["floods the verdict", "for (;;) require('node:fs').writeSync(3, 'x'.repeat(1e5));", /flood|ended before/],
  ["takes all memory", "const all = []; for (;;) all.push(Buffer.alloc(1e8, 1));", /ended before|Error|more than/],
  ["fakes equality", "function two() { return { valueOf: () => 2, equals: () => true }; }", /got/],
  [
    "leaves a process and ends",
    "require('node:child_process').spawn('sleep', ['60'], { detached: true, stdio: 'inherit' }).unref(); process.exit(0);",
    /ended before/,
  ],
];

test.each(BAD_SCRIPTS)("TypeScript that %s is not solved", async (_, code, why) => {
  await expectRefused("typescript", code, why);
});

const BAD_PYTHON: typeof BAD_SCRIPTS = [
  ["is wrong", "def two(): return 3", /two\(\): got 3/],
  ["is no program", "def two(:", /SyntaxError/],
  ["hangs", "while True: pass", /ended before|more than/],
  ["sleeps on", "import time\ntime.sleep(1000)", /more than/],
  ["ends early with 0", "import sys\nsys.exit(0)", /SystemExit/],
  ["ends at once with 0", "import os\nos._exit(0)", /ended before/],
  ["forks without end", "import os\nwhile True: os.fork()", /ended before|Error|more than|flood/],
  ["forks and ends", "import os\nif os.fork(): os._exit(0)\nos.setsid()\nwhile True: pass", /ended before|more than/],
  ["floods the output", "while True: print('x' * 100000)", /ended before|more than/],
  ["writes a verdict", `import os\nos.write(3, b'{"secret":"","passed":2}')\nos._exit(0)`, /ended before/],
  ["takes all memory", "x = bytearray(2 << 30)", /MemoryError|ended before/],
  [
    "fakes equality",
    "class All(int):\n  def __eq__(self, other): return True\n  __hash__ = None\ndef two(): return All(9)",
    /got/,
  ],
  ["returns a truth for a number", "def two(): return True", /got/],
];

whenPython.each(BAD_PYTHON)("Python that %s is not solved (skipped without Python)", async (_, code, why) => {
  await expectRefused("python", code, why);
});

test("right programs are solved, whatever they print", async () => {
  expect(await run("typescript", "console.log('hi'); export function two(): number { return 2; }")).toEqual({
    isSolved: true,
  });
  if (hasPython) expect(await run("python", "print('hi')\ndef two(): return 2")).toEqual({ isSolved: true });
});

test("without a test nothing is solved", async () => {
  expect((await run("typescript", "function two() { return 2; }", [])).isSolved).toBe(false);
});

test.skipIf(!isIsolated)(
  "programs have no environment, no network and an empty folder (skipped without unshare)",
  async () => {
    const code =
      "const { readdirSync } = require('node:fs'); const { networkInterfaces } = require('node:os');" +
      "function seen() { return [Object.keys(process.env), readdirSync('.'), Object.values(networkInterfaces())]; }";
    const tests = [{ before: "", actual: "seen()", expected: '[["PYTHONHASHSEED"], [], []]' }];
    expect(await run("typescript", code, tests)).toEqual({ isSolved: true });
  },
);

test.skipIf(!isIsolated)(
  "a process that leaves the program's group ends with it (skipped without unshare)",
  async () => {
    const mark = "left-by-a-program";
    const code = `
    const { spawn } = require('node:child_process');
    const rest = ['-e', 'setInterval(() => 0, 1000)', '${mark}'];
    spawn(process.execPath, rest, { detached: true, stdio: 'ignore' }).unref();
    function two() { return 2; }`;
    expect((await run("typescript", code)).isSolved).toBe(true);
    const commands = readdirSync("/proc")
      .filter((name) => /^\d+$/.test(name))
      .map((pid) => {
        try {
          return readFileSync(join("/proc", pid, "cmdline"), "utf8");
        } catch {
          return "";
        }
      });
    expect(commands.filter((command) => command.includes(mark))).toEqual([]);
    expect(commands.some((command) => command !== "")).toBe(true);
  },
);

const problems: readonly Problem[] = (await Promise.all(LANGUAGES.map(readProblems))).flat();

test("there are a hundred problems in three levels, about half of them in each language", () => {
  const shareOf = (fits: (problem: Problem) => boolean): number => problems.filter(fits).length / problems.length;
  expect(problems.length).toBeGreaterThanOrEqual(100);
  expect(new Set(problems.map(({ language, name }) => `${language}/${name}`)).size).toBe(problems.length);
  expect(Math.abs(shareOf(({ language }) => language === "python") - 0.5)).toBeLessThan(0.05);
  for (const level of ["easy", "medium", "hard"]) expect(shareOf((one) => one.level === level)).toBeGreaterThan(0.25);
  for (const { tests, wrong } of problems) {
    expect(tests.length).toBeGreaterThanOrEqual(5);
    expect(wrong.length).toBeGreaterThanOrEqual(1);
  }
});

test("the tests of some problems accept the reference and refuse what is wrong", async () => {
  const some = problems.filter(({ language }, index) => index % 17 === 0 && canRun(language));
  const faults = await Promise.all(some.map(faultsOf));
  expect(some.length).toBeGreaterThan(2);
  expect(faults.flat()).toEqual([]);
});

test("a problem whose tests do not tell right from wrong is at fault", async () => {
  const [problem] = problems.filter(({ language }) => language === "typescript");
  const tests = [{ before: "", actual: "1", expected: "1" }];
  const faults = await faultsOf({ ...(problem as Problem), tests });
  expect(faults.join()).toMatch(/has 1 tests.*a wrong program passes/s);
  const wrong = await faultsOf({ ...(problem as Problem), solution: "return 0; }" });
  expect(wrong.join()).toMatch(/the reference fails/);
});

test("a gap and what was removed are the reference again", () => {
  const gaps = problems.flatMap((problem) => {
    const gap = gapOf(problem);
    return gap ? [{ problem, gap }] : [];
  });
  expect(gaps.length).toBeGreaterThanOrEqual(60);
  for (const { problem, gap } of gaps) {
    expect(gap.prefix + gap.removed + gap.suffix).toBe(problem.prompt + problem.solution);
    expect(gap.removed.trim()).not.toBe("");
  }
});

test("what fills a gap ends before the suffix's first line that has more than spaces", () => {
  expect(untilSuffix("  a\n  b\n  c\n  d", "\n  c\n}\n")).toBe("  a\n  b\n");
  expect(untilSuffix("  a\n c\n", "  c\n")).toBe("  a\n c\n");
  expect(untilSuffix("", "")).toBe("");
  const random = seededRandom(3);
  for (let round = 0; round < 200; round++) {
    const lines = Array.from({ length: 1 + Math.floor(random() * 6) }, () => "xyz"[Math.floor(random() * 3)] as string);
    const cut = untilSuffix(`head\n${lines.join("\n")}\nx`, "x\n");
    expect(cut.split("\n")).not.toContain("x");
    const kept = lines.includes("x") ? lines.slice(0, lines.indexOf("x")) : lines;
    expect(cut).toBe(["head", ...kept, ""].join("\n"));
  }
});

test("the program of an answer is its first block with the name, else the rest of the given head", () => {
  const [problem] = problems.filter(({ name }) => name === "count_vowels") as [Problem];
  const whole = "def count_vowels(text):\n    return 0\n";
  expect(programOf(problem, `Here:\n\`\`\`python\n${whole}\`\`\`\nIt works.\n\`\`\`\nx\n\`\`\``)).toBe(whole);
  expect(programOf(problem, `\`\`\`python\n${whole}`)).toBe(whole);
  expect(programOf(problem, whole)).toBe(whole);
  expect(programOf(problem, "    return 0\n")).toBe(`${problem.prompt}    return 0\n`);
});

test("fields are right without regard to case and order of lists, and to nothing else", () => {
  const expected = { name: "Ann", tags: ["a", "b"], count: 2 };
  expect(judgeFields('{"name":"ann ","tags":["B","a"],"count":2}', expected)).toEqual({ isSolved: true });
  for (const wrong of ['{"name":"Ann","tags":["a","b"],"count":"2"}', '{"name":"Ann"}', "[]", "null", "{", ""]) {
    expect(judgeFields(wrong, expected).isSolved).toBe(false);
  }
  expect(judgeFields('{"name":"Ann","tags":["a","b"],"count":2,"more":1}', expected).why).toBe("more: 1");
});

test("kinds have as many cases as the limit, with ids of their own", async () => {
  const info = { hasChatTemplate: true, fillIn: { family: "f", prefix: { id: 0, text: "" }, endTokenIds: [] } };
  const kinds = KINDS.filter((kind) => kind !== "humaneval");
  const all = await listCases({ kinds, limit: 1000, maxTokens: 64, info, cacheFolder: "" });
  expect(new Set(all.map(({ id }) => id)).size).toBe(all.length);
  if (hasPython) {
    expect(all.filter(({ kind }) => kind === "fill-in")).toHaveLength(30);
    const few = await listCases({ kinds, limit: 3, maxTokens: 64, info, cacheFolder: "" });
    expect(few.map(({ kind }) => kind)).toEqual(kinds.flatMap((kind) => [kind, kind, kind]));
  }
  expect(all.filter(({ kind }) => kind === "json")).toHaveLength(30);
  const plain = await listCases({ kinds, limit: 1, maxTokens: 64, info: { hasChatTemplate: false }, cacheFolder: "" });
  expect(plain.every(({ request }) => typeof request.prompt === "string")).toBe(true);
});

test("Wilson's interval has the shares whose score test does not reject, and McNemar's p is a sum over all splits", () => {
  for (const [successes, trials] of [
    [0, 10],
    [3, 10],
    [10, 10],
    [50, 164],
  ] as const) {
    const { low, high } = wilsonInterval(successes, trials);
    const score = (share: number): number =>
      Math.abs(successes / trials - share) / Math.sqrt((share * (1 - share)) / trials);
    if (low > 0) expect(score(low)).toBeCloseTo(1.96, 3);
    if (high < 1) expect(score(high)).toBeCloseTo(1.96, 3);
    expect([low <= successes / trials, high >= successes / trials]).toEqual([true, true]);
  }
  for (let a = 0; a <= 6; a++) {
    for (let b = 0; b <= 6; b++) {
      let asUneven = 0;
      for (let split = 0; split < 2 ** (a + b); split++) {
        const ones = split.toString(2).replaceAll("0", "").length;
        if (Math.abs(2 * ones - (a + b)) >= Math.abs(a - b)) asUneven++;
      }
      expect(mcNemarExact(a, b)).toBeCloseTo(asUneven / 2 ** (a + b), 10);
    }
  }
});

function runOf(solved: readonly boolean[], version = "v"): Run {
  const result = (isSolved: boolean): Result => ({ kind: "json", isSolved, tokens: 2, text: "", version });
  const results = Object.fromEntries(solved.map((one, index) => [`json/${index}`, result(one)]));
  return { model: "m", settings: { maxTokens: 1 }, seconds: 1, results };
}

test("a run's table counts what was solved", () => {
  expect(runTable(runOf([true, false, true, true]))).toMatch(/json .*\| *3 of 4 \| *75 \| *30 to 95 \|.* 8 \|/);
});

test("runs are compared over the same cases in the same version only", () => {
  const a = runOf([true, true, true, false, true]);
  expect(comparisonTable(a, runOf([false, true, false, true]))).toMatch(/all .*4 \| *3 \| *2 \| *2 \| *1 \| *1.000 \|/);
  expect(comparisonTable(a, runOf([true], "other"))).not.toContain("all");
});

test("a run is resumed with the same model and settings only", () => {
  const earlier = runOf([true]);
  expect(resumable(earlier, { model: "m", settings: { maxTokens: 1 } })).toBe(earlier);
  expect(() => resumable(earlier, { model: "n", settings: { maxTokens: 1 } })).toThrow("model n");
  expect(() => resumable(earlier, { model: "m", settings: { maxTokens: 2 } })).toThrow(TypeError);
});

whenPython("HumanEval's own form of tests is judged (skipped without Python)", async () => {
  const tests = [{ before: "def check(f):\n    assert f() == 2\n", actual: "check(two)", expected: "None" }];
  expect((await run("python", "def two(): return 2", tests)).isSolved).toBe(true);
  expect((await run("python", "def two(): return 1", tests)).isSolved).toBe(false);
});
