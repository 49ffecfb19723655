// What a suite is: a question that one command answers.

import { readdir, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import type { LinePicture, StackedPicture } from "@readme-moe/refactor";
import type { Sample } from "./samples.ts";

/** A question that one command answers. */
export interface Suite {
  readonly name: string;
  /** What it measures, in one line. */
  readonly summary: string;
  readonly run: (context: SuiteContext) => Promise<SuiteReport>;
}

/** What is said on the command line, the same for all suites of a run. */
export interface BenchSettings {
  readonly model: string;
  /** The dense model that `model` was made from, where that is a mixture: peers run it, and it is the baseline. */
  readonly dense: string | undefined;
  /** Texts for prompts and losses: files, or folders of `<domain>.jsonl`. */
  readonly data: readonly string[];
  readonly quick: boolean;
  /** Measurements of each variant. */
  readonly rounds: number;
  readonly seed: number;
  readonly threads: number;
  /** As of all commands; `undefined` is the user's. */
  readonly cacheFolder: string | undefined;
  /** What suites ask for by name: `--set concurrency=1,8`; of one suite alone, `--set limits.contexts=128`. */
  readonly set: Readonly<Record<string, string>>;
}

/** What a suite works with. */
export interface SuiteContext {
  readonly settings: BenchSettings;
  /** The suite's own part of the results. */
  readonly folder: string;
  /**
   * Does a piece of work, and keeps its result at once: a run that is begun again with the same settings takes it from there.
   * @param key - of all of the suite's, one only has it
   * @param work - its result is plain JSON
   */
  readonly keep: <Result>(key: string, work: () => Promise<Result>) => Promise<Result>;
  /** Aborted when the run is interrupted. */
  readonly signal?: AbortSignal | undefined;
  /** A line for whoever waits. */
  readonly say: (text: string) => void;
}

/** A table of text. */
export interface ReportTable {
  readonly title: string;
  readonly columns: readonly string[];
  /** Cells of the columns; the first is the row's name. */
  readonly rows: readonly (readonly string[])[];
  /** Below the table. */
  readonly notes?: readonly string[];
}

/** A figure beside what was wanted of it. */
export interface Target {
  readonly what: string;
  readonly value: number;
  readonly unit: string;
  readonly wanted: "under" | "over";
  readonly limit: number;
  /** A better value that work goes on towards, where there is one. */
  readonly aim?: number;
}

/** What a suite found. */
export interface SuiteReport {
  readonly tables: readonly ReportTable[];
  readonly targets?: readonly Target[];
  readonly pictures?: readonly { readonly name: string; readonly picture: LinePicture | StackedPicture }[];
  /** Everything that was measured; becomes `samples.csv`. */
  readonly samples: readonly Sample[];
  /** What a reader has to know: what was measured how, what failed. */
  readonly notes?: readonly string[];
}

/** As one suite has them: what is said of it alone comes before what is said of all. */
export function settingsOfSuite(settings: BenchSettings, suite: string): BenchSettings {
  const entries = Object.entries(settings.set);
  const own = entries.filter(([name]) => suiteOfSetting(name) === suite);
  const set = [
    ...entries.filter(([name]) => suiteOfSetting(name) === undefined),
    ...own.map(([name, value]) => [name.slice(suite.length + 1), value] as const),
  ];
  return { ...settings, set: Object.fromEntries(set) };
}

/** The suite that a setting such as `limits.contexts` is for; `undefined` of one for all. */
export function suiteOfSetting(name: string): string | undefined {
  const end = name.indexOf(".");
  return end < 0 ? undefined : name.slice(0, end);
}

/** Whole numbers of a setting, such as `1,8,64`. @throws {RangeError} naming the setting */
export function numbersOf({ set }: BenchSettings, name: string, otherwise: readonly number[]): readonly number[] {
  const text = set[name];
  if (text === undefined) return otherwise;
  const numbers = text.split(",").map((part) => (part.trim() === "" ? Number.NaN : Number(part)));
  if (numbers.every((number) => Number.isSafeInteger(number) && number >= 0)) return numbers;
  throw new RangeError(`Expected \`--set ${name}\` to be whole numbers, such as 1,8,64, got \`${text}\``);
}

/** Names of a setting, such as `int8,int4`. */
export function namesOf({ set }: BenchSettings, name: string, otherwise: readonly string[]): readonly string[] {
  return set[name]?.split(",").flatMap((part) => (part.trim() === "" ? [] : [part.trim()])) ?? otherwise;
}

/** A file of texts, and what it is called in tables. */
export interface DataFile {
  /** Without folder and extension: of a folder's files, the domain. */
  readonly name: string;
  readonly path: string;
}

/** What `--data` names: files as they are, of folders each `.jsonl` or `.jsonl.gz` file. */
export async function dataFiles(paths: readonly string[]): Promise<readonly DataFile[]> {
  const files = await Promise.all(
    paths.map(async (path) => {
      if (!(await stat(path)).isDirectory()) return [path];
      const names = (await readdir(path)).filter((name) => /\.jsonl(\.gz)?$/.test(name)).toSorted();
      if (names.length > 0) return names.map((name) => join(path, name));
      throw new RangeError(`Expected \`--data\` to name files, or folders with .jsonl files, got \`${path}\``);
    }),
  );
  return files.flat().map((path) => ({ name: basename(path).replace(/(\.[^.]*)?(\.gz)?$/, ""), path }));
}
