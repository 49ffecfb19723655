// The command `tune`: wrong calls, a whole tuning, and an interrupted one.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { LoraReport, TuningReport } from "@readme-moe/refactor";
import { beforeAll, expect, test } from "vitest";
import { POCKET } from "../support/pocket.ts";
import { COMMAND_LINE, runCli } from "../support/run-cli.ts";
import { persistentFolder } from "../support/temporary-folder.ts";
import { writeTinyDense } from "../support/tiny-dense.ts";
import { WITH_TOKENIZER, writeTinyReadMe } from "../support/tiny-read-me.ts";

const BOOK = join(POCKET, "calibration", "book.jsonl");
const folder = await persistentFolder();
const [student, teacher] = [join(folder, "student"), join(folder, "teacher")];
const call = (out: string, ...more: readonly string[]): readonly string[] => [
  "tune",
  student,
  "--teacher",
  teacher,
  "--out",
  out,
  "--data",
  BOOK,
  ...SMALL,
  ...more,
];
const SMALL = "--sequence-tokens 32 --batch-sequences 4 --evaluation-sequences 1 --threads 1 --rank 4".split(" ");

beforeAll(async () => {
  await writeTinyReadMe(student, { ...WITH_TOKENIZER, seed: 1 });
  await writeTinyDense(teacher, 2);
});

test.each([
  [["--data", BOOK, "--out", "x"], 2, /--teacher/],
  [["--teacher", "TEACHER", "--out", "x"], 2, /--data/],
  [["--teacher", "TEACHER", "--data", BOOK], 2, /--out/],
  [["--teacher", "TEACHER", "--data", BOOK, "--out", "x", "--method", "magic"], 2, /method/],
  [
    ["--teacher", "TEACHER", "--data", BOOK, "--out", "x", "--micro-sequences", "3"],
    2,
    /`microSequences` to divide the 16/,
  ],
  [["--teacher", "TEACHER", "--data", BOOK, "--out", "x", "--alpha", "8"], 2, /'--alpha' cannot be used without/],
  [["--teacher", "TEACHER", "--data", BOOK, "--out", "x", "--no-rival"], 2, /'--no-rival' cannot be used without/],
  [["--teacher", "TEACHER", "--data", BOOK, "--out", "x", "--sharing", "ranks"], 2, /one of neurons, none, got ranks/],
  [["--teacher", "TEACHER", "--data", BOOK, "--out", "x", "--shared-rank", "0"], 2, /`sharedRank`/],
  [["--experts", "low-rank", "--data", BOOK, "--out", "x", "--sharing", "neurons"], 2, /got neurons/],
  [["--experts", "low-rank", "--data", BOOK], 2, /--out/],
  [["--experts", "half", "--data", BOOK, "--out", "x"], 2, /Allowed choices are low-rank/],
  [["--experts", "low-rank", "--method", "full", "--data", BOOK, "--out", "x"], 2, /'--method' cannot be used with/],
  [["--experts", "low-rank", "--data", `router=${BOOK}`, "--out", "x"], 2, /name of a kind of text/],
  [
    ["--experts", "low-rank", "--data", BOOK, "--out", "x"],
    1,
    /is a mixture of \d experts \(read-me\); experts of low rank are trained over dense models/,
  ],
  [["--draft-head", "--data", BOOK], 2, /--out/],
  [["--draft-head", "--experts", "low-rank", "--data", BOOK, "--out", "x"], 2, /cannot be used with option '--experts/],
  [["--draft-head", "--rank", "4", "--data", BOOK, "--out", "x"], 2, /'--rank' cannot be used with --draft-head/],
  [["--draft-head", "--teacher", "TEACHER", "--data", BOOK, "--out", "x"], 2, /'--teacher' cannot be used with/],
  [
    ["--teacher", "TEACHER", "--vocabulary", "9", "--data", BOOK, "--out", "x"],
    2,
    /'--vocabulary' cannot be used without --draft-head/,
  ],
  [["--experts", "low-rank", "--drafts", "2", "--data", BOOK, "--out", "x"], 2, /'--drafts' cannot be used with --exp/],
  [["--draft-head", "--vocabulary", "999999", "--data", BOOK, "--out", "x"], 2, /`vocabulary` to be at most/],
  [
    ["--draft-head", "--data", BOOK, "--out", "x"],
    1,
    /is a mixture of \d experts \(read-me\); draft heads are trained/,
  ],
  [["--teacher", POCKET, "--data", BOOK, "--out", "x"], 1, /cannot be the teacher: it has hiddenSize/],
  [["--teacher", "STUDENT", "--data", BOOK, "--out", "x"], 1, /is not a dense model/],
])("%j: exit code %i", async (args, code, message) => {
  const paths: Record<string, string> = { TEACHER: teacher, STUDENT: student, x: join(folder, "refused") };
  const result = await runCli(["tune", student, ...args.map((arg) => paths[arg] ?? arg)]);
  expect(result.stderr).toMatch(message);
  expect(result.code).toBe(code);
  expect(existsSync(join(folder, "refused"))).toBe(false);
});

test("refuses to share neurons of experts that are wider than their teacher, before any work", async () => {
  const [wide, out] = [join(folder, "wide"), join(folder, "wide-tuned")];
  await writeTinyReadMe(wide, { ...WITH_TOKENIZER, expertSizes: [64, 72] });
  const result = await runCli(call(out, "--sharing", "neurons").with(1, wide));
  expect(result.stderr).toMatch(/experts of 72 neurons; its teacher's 64 cannot be shared/);
  expect(result.code).toBe(1);
  expect(existsSync(out) || existsSync(`${out}.unfinished`)).toBe(false);
});

test.each([
  ["lora", "none"],
  ["full", "none"],
  ["lora", "neurons"],
  ["full", "neurons"],
])(
  "%s, sharing %s, writes a model with a smaller loss above its teacher",
  { timeout: 300_000 },
  async (method, sharing) => {
    const out = join(folder, `${method}-${sharing}`);
    const result = await runCli(
      call(
        out,
        "--method",
        method,
        "--sharing",
        sharing,
        "--tokens",
        "5120",
        "--learning-rate",
        "0.01",
        "--attention",
        "--frozen",
        "float",
        "--json",
      ),
    );
    expect(result.code, result.stderr).toBe(0);
    const report = JSON.parse(result.stdout) as TuningReport;
    expect(report.steps).toBe(40);
    const divergences = report.training.map(({ divergence }) => divergence);
    expect(mean(divergences.slice(-5))).toBeLessThan(0.95 * mean(divergences.slice(0, 5)));
    const saved = JSON.parse(await readFile(join(out, "report.json"), "utf8")) as { tuning: TuningReport };
    expect(saved.tuning).toEqual(report);
    expect(await readFile(join(out, "README.md"), "utf8")).toContain("pictures/tuning.svg");
    expect(existsSync(join(out, "pictures", "tuning.svg"))).toBe(true);
    // The folder has the measured loss, which is where another tuning of it begins, in the same numbers.
    const next = await runCli(call(`${out}-next`, "--tokens", "128", "--frozen", "float", "--json").with(1, out));
    expect(next.code, next.stderr).toBe(0);
    const { before } = JSON.parse(next.stdout) as TuningReport;
    expect(before.mean).toBeCloseTo(report.after.mean, 4);
    expect(report.after.mean).toBeLessThan(report.before.mean);
  },
);

test("loras of two kinds of text have a smaller loss than the dense model", { timeout: 300_000 }, async () => {
  const out = join(folder, "experts");
  const github = join(POCKET, "calibration", "github.jsonl");
  const args = ["tune", teacher, "--experts", "low-rank", "--out", out, "--data", `prose=${BOOK}`, `code=${github}`];
  const more =
    "--tokens 6144 --learning-rate 0.01 --router-steps 10 --router-tokens 64 --evaluation-sequences 2 --json";
  const few = SMALL.filter(
    (part, index) => part !== "--evaluation-sequences" && SMALL[index - 1] !== "--evaluation-sequences",
  );
  const result = await runCli([...args, ...few, ...more.split(" ")]);
  expect(result.code, result.stderr).toBe(0);
  const report = JSON.parse(result.stdout) as LoraReport;
  expect(report.experts.map(({ name }) => name)).toEqual(["prose", "code"]);
  for (const row of [report.label, report.router, report.rival]) expect(row?.above_dense).toBeLessThan(-0.3);
  expect(existsSync(join(out, "experts", "code", "adapter_model.safetensors"))).toBe(true);
  const short = await runCli(
    [...args, ...few, "--tokens", "256", "--no-rival", "--router-steps", "2"].with(5, `${out}-2`),
  );
  expect(short.code, short.stderr).toBe(0);
  expect(short.stdout).toMatch(/dense .*\n.*own expert .*\n.*router /);
  expect(short.stdout).not.toContain("one for all");
  expect(short.stdout).toMatch(/--lora/);
  expect(short.stderr).toMatch(/experts of prose, code: step 2 of 2/);
});

test("an interrupted tuning keeps its work, and continues only with --resume", async () => {
  const out = join(folder, "interrupted");
  const args = call(out, "--tokens", "25600");
  const child = spawn(process.execPath, [...COMMAND_LINE, ...args], { stdio: ["ignore", "ignore", "pipe"] });
  let [text, isInterrupted] = ["", false];
  child.stderr.on("data", (data: Buffer) => {
    text += data.toString();
    // A second signal would end the process at once.
    if (text.includes("step 3 of") && !isInterrupted) isInterrupted = child.kill("SIGINT");
  });
  const [code] = (await once(child, "exit")) as [number];
  expect(code).toBe(130);
  expect(existsSync(join(`${out}.unfinished`, "tuning.safetensors"))).toBe(true);
  const refused = await runCli(args);
  expect(refused.stderr).toMatch(/holds unfinished work/);
  const resumed = await runCli([...args, "--resume"]);
  expect(resumed.code, resumed.stderr).toBe(0);
  expect(resumed.stderr).not.toMatch(/step 1 of/);
  expect(resumed.stderr).toMatch(/step 200 of 200/);
});

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
