// A tuning whose process is killed repeatedly writes the same model. `KILLS=10` kills more often.

import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import type { TuningReport } from "@readme-moe/refactor";
import { beforeAll, expect, test } from "vitest";
import { runWholeAndKilled } from "../support/killed-run.ts";
import { modelHashes } from "../support/model-hashes.ts";
import { persistentFolder } from "../support/temporary-folder.ts";
import { WITH_TOKENIZER, writeTinyReadMe } from "../support/tiny-read-me.ts";
import { writeTinyDense } from "../support/tiny-dense.ts";

const PROGRAM = join(import.meta.dirname, "..", "support", "programs", "tune-tiny.ts");
const KILLS = Number(process.env["KILLS"] ?? 2);
const folder = await persistentFolder();
const [student, teacher] = [join(folder, "student"), join(folder, "teacher")];

beforeAll(async () => {
  await writeTinyReadMe(student, { ...WITH_TOKENIZER, seed: 1 });
  await writeTinyDense(teacher, 2);
});

test("writes the same model and report when it is killed and resumed", { timeout: 120_000 * (3 + KILLS) }, async () => {
  const seed = Number(process.env["SEED"] ?? 5);
  const { whole, killed } = await runWholeAndKilled(folder, {
    program: PROGRAM,
    args: [student, teacher],
    kills: KILLS,
    seed,
  });
  expect(await modelHashes(killed)).toEqual(await modelHashes(whole));
  expect(await reportOf(killed)).toEqual(await reportOf(whole));
  expect((await readdir(folder)).toSorted()).toEqual(["killed", "student", "teacher", "whole"]);
});

/** Reads a report without its duration. */
async function reportOf(path: string): Promise<Omit<TuningReport, "seconds">> {
  const { tuning } = JSON.parse(await readFile(join(path, "report.json"), "utf8")) as { tuning: TuningReport };
  const { seconds: _, ...rest } = tuning;
  return rest;
}
