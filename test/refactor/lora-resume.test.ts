// A training of experts whose process is killed repeatedly writes the same folder. `KILLS=10` kills more often.

import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import type { LoraReport } from "@readme-moe/refactor";
import { expect, test } from "vitest";
import { runWholeAndKilled } from "../support/killed-run.ts";
import { modelHashes } from "../support/model-hashes.ts";
import { persistentFolder } from "../support/temporary-folder.ts";
import { writeTinyDense } from "../support/tiny-dense.ts";

const PROGRAM = join(import.meta.dirname, "..", "support", "programs", "tune-loras-tiny.ts");
const KILLS = Number(process.env["KILLS"] ?? 3);
const folder = await persistentFolder();
const model = join(folder, "model");

test("writes the same experts when it is killed and resumed", { timeout: 120_000 * (3 + KILLS) }, async () => {
  await writeTinyDense(model, 1);
  const seed = Number(process.env["SEED"] ?? 5);
  const { whole, killed } = await runWholeAndKilled(folder, { program: PROGRAM, args: [model], kills: KILLS, seed });
  expect(await modelHashes(killed)).toEqual(await modelHashes(whole));
  expect(await reportOf(killed)).toEqual(await reportOf(whole));
  expect((await readdir(folder)).toSorted()).toEqual(["killed", "model", "whole"]);
});

/** Reads a report without its duration. */
async function reportOf(path: string): Promise<Omit<LoraReport, "seconds">> {
  const { seconds: _, ...rest } = JSON.parse(await readFile(join(path, "report.json"), "utf8")) as LoraReport;
  return rest;
}
