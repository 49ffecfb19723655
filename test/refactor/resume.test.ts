// A refactoring whose process is killed repeatedly writes the same model. `KILLS=10` kills more often.

import { existsSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { expect, test } from "vitest";
import { runUpTo } from "../support/killed-run.ts";
import { modelHashes } from "../support/model-hashes.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const PROGRAM = join(import.meta.dirname, "..", "support", "programs", "refactor-pocket.ts");
const KILLS = Number(process.env["KILLS"] ?? 2);
const folder = await persistentFolder();

/** Runs to the end, or kills the process at message `killAt`. @returns the number of messages */
function run(out: string, resume: boolean, killAt: number): Promise<number> {
  return runUpTo(PROGRAM, [out, ...(resume ? ["resume"] : [])], killAt);
}

test("writes the same model when it is killed and resumed", { timeout: 60_000 * (3 + KILLS) }, async () => {
  const whole = join(folder, "whole");
  const numMessages = await run(whole, false, Infinity);
  const out = join(folder, "killed");
  const random = seededRandom(Number(process.env["SEED"] ?? 7));
  for (let kill = 0; kill < KILLS; kill++) {
    // Finished work sends no messages again: later kills come early or not at all.
    await run(out, existsSync(`${out}.unfinished`), 1 + randomInteger(random, numMessages));
    if (existsSync(out)) break;
  }
  if (!existsSync(out)) await run(out, existsSync(`${out}.unfinished`), Infinity);
  expect(await modelHashes(out)).toEqual(await modelHashes(whole));
  expect((await readdir(dirname(out))).toSorted()).toEqual(["killed", "whole"]);
});
