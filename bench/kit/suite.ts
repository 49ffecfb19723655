// Suites: their settings, context and reports.

import { readdir, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import type { LinePicture, StackedPicture } from "@readme-moe/refactor";
import type { Sample } from "./samples.ts";

/** A question that one command answers. */
export interface Suite {
  readonly name: string;
  /** Description in one line. */
  readonly summary: string;
  readonly run: (context: SuiteContext) => Promise<SuiteReport>;
}

/** Settings on the command line, the same for all suites of a run. */
export interface BenchSettings {
  readonly model: string;
  /** The dense model that `model` was made from, if that is a mixture: the baseline, and the model that peers run. */
  readonly dense: string | undefined;
  /** Texts for prompts and losses: files, or folders of `<domain>.jsonl`. */
  readonly data: readonly string[];
  readonly quick: boolean;
  /** Number of measurements of each variant. */
  readonly rounds: number;
  readonly seed: number;
  readonly threads: number;
  /** Cache folder; `undefined` for the user's. */
  readonly cacheFolder: string | undefined;
  /** Values of `--set concurrency=1,8`, or for one suite `--set limits.contexts=128`. */
  readonly set: Readonly<Record<string, string>>;
}

/** The context that a suite runs in. */
export interface SuiteContext {
  readonly settings: BenchSettings;
  /** Folder of the suite's results. */
  readonly folder: string;
  /**
   * Does a piece of work and stores its result: a later run with the same settings reads it instead.
   * @param key - unique in the suite
   * @param work - returns plain JSON
   */
  readonly keep: <Result>(key: string, work: () => Promise<Result>) => Promise<Result>;
  /** Aborted when the run is interrupted. */
  readonly signal?: AbortSignal | undefined;
  /** Prints a line of progress. */
  readonly say: (text: string) => void;
}

/** A table of text. */
export interface ReportTable {
  readonly title: string;
  readonly columns: readonly string[];
  /** Cells of the columns; the first is the row's name. */
  readonly rows: readonly (readonly string[])[];
  /** Lines below the table. */
  readonly notes?: readonly string[];
}

/** A figure and its target. */
export interface Target {
  readonly what: string;
  readonly value: number;
  readonly unit: string;
  readonly wanted: "under" | "over";
  readonly limit: number;
  /** A better value to aim for. */
  readonly aim?: number;
}

/** The results of a suite. */
export interface SuiteReport {
  readonly tables: readonly ReportTable[];
  readonly targets?: readonly Target[];
  readonly pictures?: readonly { readonly name: string; readonly picture: LinePicture | StackedPicture }[];
  /** All measurements; written to `samples.csv`. */
  readonly samples: readonly Sample[];
  /** Notes on the method and on failures. */
  readonly notes?: readonly string[];
}

/** Returns the settings of one suite: its own values replace those for all suites. */
export function settingsOfSuite(settings: BenchSettings, suite: string): BenchSettings {
  const entries = Object.entries(settings.set);
  const own = entries.filter(([name]) => suiteOfSetting(name) === suite);
  const set = [
    ...entries.filter(([name]) => suiteOfSetting(name) === undefined),
    ...own.map(([name, value]) => [name.slice(suite.length + 1), value] as const),
  ];
  return { ...settings, set: Object.fromEntries(set) };
}

/** Returns the suite of a setting such as `limits.contexts`; `undefined` for a setting of all suites. */
export function suiteOfSetting(name: string): string | undefined {
  const end = name.indexOf(".");
  return end < 0 ? undefined : name.slice(0, end);
}

/** Reads whole numbers of a setting, such as `1,8,64`. @throws {RangeError} naming the setting */
export function numbersOf({ set }: BenchSettings, name: string, otherwise: readonly number[]): readonly number[] {
  const text = set[name];
  if (text === undefined) return otherwise;
  const numbers = text.split(",").map((part) => (part.trim() === "" ? Number.NaN : Number(part)));
  if (numbers.every((number) => Number.isSafeInteger(number) && number >= 0)) return numbers;
  throw new RangeError(`Expected \`--set ${name}\` to be whole numbers, such as 1,8,64, got \`${text}\``);
}

/** Reads names of a setting, such as `int8,int4`. */
export function namesOf({ set }: BenchSettings, name: string, otherwise: readonly string[]): readonly string[] {
  return set[name]?.split(",").flatMap((part) => (part.trim() === "" ? [] : [part.trim()])) ?? otherwise;
}

/** A file of texts with its name in tables. */
export interface DataFile {
  /** File name without folder and extension, such as the domain. */
  readonly name: string;
  readonly path: string;
}

/** Lists the files of `--data`: files themselves, and the `.jsonl` and `.jsonl.gz` files of folders. */
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
