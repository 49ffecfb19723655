// A refactoring whose process is killed repeatedly writes the same model. `KILLS=10` kills more often.

import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { runWholeAndKilled } from "../support/killed-run.ts";
import { modelHashes } from "../support/model-hashes.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const PROGRAM = join(import.meta.dirname, "..", "support", "programs", "refactor-pocket.ts");
const KILLS = Number(process.env["KILLS"] ?? 2);
const folder = await persistentFolder();

test("writes the same model when it is killed and resumed", { timeout: 60_000 * (3 + KILLS) }, async () => {
  const seed = Number(process.env["SEED"] ?? 7);
  const { whole, killed } = await runWholeAndKilled(folder, { program: PROGRAM, kills: KILLS, seed });
  expect(await modelHashes(killed)).toEqual(await modelHashes(whole));
  expect((await readdir(folder)).toSorted()).toEqual(["killed", "whole"]);
});
