// The folder of a run's results. Each measurement is written when it is finished, so that a run can continue after a
// break:
//
//   <folder>/settings.json               settings of the run; a folder belongs to one set of settings
//            machine.json                the machine
//            summary.md                  reports of all suites
//            <suite>/measurements.jsonl  a line for each finished measurement
//                    samples.csv, report.md, *.svg

import { appendFile, mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { writeFileAtomically } from "@readme-moe/model";
import type { BenchSettings, SuiteContext } from "./suite.ts";

interface KeptLine {
  readonly key: string;
  readonly result: unknown;
}

/**
 * Makes the folder, or continues in one that was begun with the same settings.
 * @throws {RangeError} when it was begun with other settings
 */
export async function openResultsFolder(folder: string, settings: BenchSettings): Promise<void> {
  await mkdir(folder, { recursive: true });
  const path = join(folder, "settings.json");
  const text = `${JSON.stringify(settings, undefined, 2)}\n`;
  const before = await readIfThere(path);
  if (before === undefined) return writeFileAtomically(path, text);
  if (before !== text) {
    throw new RangeError(
      `Expected \`--out\` to be a new folder, or one of a run with the same settings, got \`${folder}\``,
    );
  }
}

/** Makes a suite's `keep`, which returns earlier results. */
export async function openKept(suiteFolder: string): Promise<SuiteContext["keep"]> {
  await mkdir(suiteFolder, { recursive: true });
  const path = join(suiteFolder, "measurements.jsonl");
  const text = (await readIfThere(path)) ?? "";
  // An interrupted run may have left an incomplete line.
  const end = text.lastIndexOf("\n") + 1;
  if (end < text.length) await writeFileAtomically(path, text.slice(0, end));
  const kept = new Map(linesOf(text.slice(0, end), path).map(({ key, result }) => [key, result]));
  const used = new Set<string>();
  return async <Result>(key: string, work: () => Promise<Result>): Promise<Result> => {
    if (used.has(key)) throw new Error(`Two measurements are called ${key}`);
    used.add(key);
    if (kept.has(key)) return kept.get(key) as Result;
    const line = JSON.stringify({ key, result: await work() });
    await appendFile(path, `${line}\n`);
    // Returned in the form in which a later run reads it.
    return (JSON.parse(line) as { readonly result: Result }).result;
  };
}

function linesOf(text: string, path: string): readonly KeptLine[] {
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line, index) => {
      try {
        return JSON.parse(line) as KeptLine;
      } catch (cause) {
        throw new ReadMeError("ERR_FILE_CORRUPT", `${path}: line ${index + 1} is not JSON`, { cause });
      }
    });
}

async function readIfThere(path: string): Promise<string | undefined> {
  return readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw error;
  });
}
