// Tells how many small problems a model solves: programs that are run, gaps in programs, fields of texts as JSON, and
// HumanEval. Answers are greedy. Needs no clock, so it may run beside other work.
//
//   npm run bench:problems -- --model FILE [--kinds python,typescript,fill-in,json,humaneval] [--limit N]
//     [--precision P] [--lora SET] [--threads 2] [--concurrency 8] [--max-tokens 512] [--out X.json]
//   npm run bench:problems -- --compare A.json B.json
//   npm run bench:problems -- --check
//
// With --out, an interrupted run is resumed. With --check, the problems are checked: no model is needed.

import { readFile, rename, writeFile } from "node:fs/promises";
import { cpus } from "node:os";
import { parseArgs } from "node:util";
import { ReadMeEngine } from "@readme-moe/engine";
import { type Precision, resolveCacheFolder } from "@readme-moe/model";
import { type Case, KINDS, listCases } from "./cases.ts";
import { faultsOf } from "./check.ts";
import { LANGUAGES, readProblems } from "./problems.ts";
import { comparisonTable, resumable, type Result, type Run, runTable } from "./results.ts";
import { isIsolated } from "./sandbox.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    model: { type: "string" },
    kinds: { type: "string", default: KINDS.join(",") },
    limit: { type: "string", default: "1000" },
    precision: { type: "string" },
    lora: { type: "string" },
    threads: { type: "string", default: "2" },
    concurrency: { type: "string", default: "8" },
    "max-tokens": { type: "string", default: "512" },
    out: { type: "string" },
    compare: { type: "boolean", default: false },
    check: { type: "boolean", default: false },
  },
});

if (!isIsolated) console.error("warning: programs of the model run with the network and files of this user");
if (values.check) await checkProblems();
else if (values.compare) await compareRuns(positionals);
else await runModel();

async function checkProblems(): Promise<void> {
  const problems = (await Promise.all(LANGUAGES.map(readProblems))).flat();
  const faults: string[] = [];
  await inParallel(problems, cpus().length, async (problem) => void faults.push(...(await faultsOf(problem))));
  for (const fault of faults) console.error(fault);
  console.log(`${problems.length} problems, ${faults.length} faults`);
  if (faults.length > 0) process.exitCode = 1;
}

async function compareRuns([first, second]: readonly string[]): Promise<void> {
  if (first === undefined || second === undefined)
    throw new TypeError("Expected --compare to be followed by two files");
  const [a, b] = [await readRun(first), await readRun(second)];
  console.log(`A: ${a.model} ${JSON.stringify(a.settings)}\nB: ${b.model} ${JSON.stringify(b.settings)}\n`);
  console.log(comparisonTable(a, b));
}

async function readRun(path: string): Promise<Run> {
  return JSON.parse(await readFile(path, "utf8")) as Run;
}

async function runModel(): Promise<void> {
  const { model, precision, lora, out } = values;
  if (model === undefined) throw new TypeError("Expected --model to name a model");
  const [limit, maxTokens] = [numberOf("limit"), numberOf("max-tokens")];
  const [threads, concurrency] = [numberOf("threads"), numberOf("concurrency")];
  const kinds = values.kinds.split(",").map((name) => {
    const kind = KINDS.find((one) => one === name);
    if (kind === undefined) throw new RangeError(`Expected --kinds to be among ${KINDS.join(", ")}, got ${name}`);
    return kind;
  });
  const loras = lora === undefined ? undefined : { set: lora };
  const started = { model, settings: { precision, lora, maxTokens } };
  const earlier: Run | undefined =
    out === undefined ? undefined : await readRun(out).catch((error: unknown) => missing(error));
  let run: Run = earlier ? resumable(earlier, started) : { ...started, seconds: 0, results: {} };
  await using engine = await ReadMeEngine.open(model, { precision: precision as Precision, threads, loras });
  const cases = await listCases({ kinds, limit, maxTokens, info: engine.info, cacheFolder: resolveCacheFolder() });
  const left = cases.filter(({ id, version }) => run.results[id]?.version !== version);
  console.log(`${cases.length} cases, ${left.length} to do`);
  let lastMs = performance.now();
  let written = Promise.resolve();
  await inParallel(left, concurrency, async (one) => {
    const result = await answer(engine, one);
    const nowMs = performance.now();
    const seconds = run.seconds + (nowMs - lastMs) / 1000;
    lastMs = nowMs;
    run = { ...run, seconds, results: { ...run.results, [one.id]: result } };
    console.log(`${result.isSolved ? "solved" : "failed"} ${one.id} ${result.why ?? ""}`);
    if (out !== undefined) await (written = written.then(() => writeRun(out, run)));
  });
  const results = Object.fromEntries(
    cases.flatMap(({ id, level }) => {
      const result = run.results[id];
      return result ? [[id, { ...result, level }]] : [];
    }),
  );
  console.log(`\n${runTable({ results })}\n\n${run.seconds.toFixed(0)} s`);
}

function numberOf(name: "limit" | "max-tokens" | "threads" | "concurrency"): number {
  const value = Number(values[name]);
  if (!Number.isInteger(value) || value < 1) {
    throw new RangeError(`Expected --${name} to be a positive integer, got ${values[name]}`);
  }
  return value;
}

/** Passes over a file that is not there. */
function missing(error: unknown): undefined {
  if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
}

async function answer(
  engine: ReadMeEngine,
  { kind, level, request, maxTokens, judge, version }: Case,
): Promise<Result> {
  const { stop, ...asked } = request;
  let text = "";
  let tokens = 0;
  let isCutShort = false;
  for await (const chunk of engine.generate({
    ...asked,
    params: { temperature: 0, repetitionPenalty: 1, maxTokens, stop },
  })) {
    text += chunk.text;
    tokens += chunk.tokens.length;
    isCutShort ||= chunk.finishReason === "length";
  }
  const { isSolved, why } = await judge(text, isCutShort);
  return { kind, level, isSolved, tokens, why, text, version };
}

/** Writes a whole file, or none. */
async function writeRun(path: string, run: Run): Promise<void> {
  await writeFile(`${path}.new`, `${JSON.stringify(run, undefined, 2)}\n`);
  await rename(`${path}.new`, path);
}

/** Works on items in order, on several at a time. */
async function inParallel<Item>(
  items: readonly Item[],
  count: number,
  work: (item: Item) => Promise<void>,
): Promise<void> {
  const left = items.values();
  const one = async (): Promise<void> => {
    for (const item of left) await work(item);
  };
  await Promise.all(Array.from({ length: count }, one));
}
