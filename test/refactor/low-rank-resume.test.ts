// A training of experts whose process is killed repeatedly writes the same folder. `KILLS=10` kills more often.

import { existsSync } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import type { LowRankReport } from "@readme-moe/refactor";
import { expect, test } from "vitest";
import { runUpTo } from "../support/killed-run.ts";
import { modelHashes } from "../support/model-hashes.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { persistentFolder } from "../support/temporary-folder.ts";
import { writeTinyDense } from "../support/tiny-dense.ts";

const PROGRAM = join(import.meta.dirname, "..", "support", "programs", "tune-low-rank-tiny.ts");
const KILLS = Number(process.env["KILLS"] ?? 3);
const folder = await persistentFolder();
const model = join(folder, "model");

/** Runs to the end, or kills the process at message `killAt`. @returns the number of messages */
function run(out: string, resume: boolean, killAt: number): Promise<number> {
  return runUpTo(PROGRAM, [model, out, ...(resume ? ["resume"] : [])], killAt);
}

test("writes the same experts when it is killed and resumed", { timeout: 120_000 * (3 + KILLS) }, async () => {
  await writeTinyDense(model, 1);
  const whole = join(folder, "whole");
  const numMessages = await run(whole, false, Infinity);
  const out = join(folder, "killed");
  const random = seededRandom(Number(process.env["SEED"] ?? 5));
  for (let kill = 0; kill < KILLS; kill++) {
    await run(out, existsSync(`${out}.unfinished`), 1 + randomInteger(random, numMessages - 1));
    if (existsSync(out)) break;
  }
  if (!existsSync(out)) await run(out, existsSync(`${out}.unfinished`), Infinity);
  expect(await modelHashes(out)).toEqual(await modelHashes(whole));
  expect(await reportOf(out)).toEqual(await reportOf(whole));
  expect((await readdir(folder)).toSorted()).toEqual(["killed", "model", "whole"]);
});

/** Reads a report without its duration. */
async function reportOf(path: string): Promise<Omit<LowRankReport, "seconds">> {
  const { seconds: _, ...rest } = JSON.parse(await readFile(join(path, "report.json"), "utf8")) as LowRankReport;
  return rest;
}
