// The embedded pocket model's refactored form, made where it is not there yet.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { runCli } from "readme-moe";

const MODELS = join(import.meta.dirname, "..", "models");
/** The dense model that experts are made of. */
export const POCKET: string = join(MODELS, "pocket");
const EXPERTS = join(MODELS, "pocket-experts");
const DOMAINS = ["arxiv", "book", "c4", "common_crawl", "github", "stackexchange", "wikipedia"];
// A minute's worth; without these options it takes two, and the result is a little better.
const SHORT = ["--calibration-tokens", "6144", "--router-steps", "200"];

/** Runs one command of `readme-moe`; ends the process when it fails. */
export async function run(...args: readonly string[]): Promise<void> {
  const code = await runCli(args);
  if (code !== 0) process.exit(code);
}

/** @returns the folder of the model with one expert of each of seven kinds of text, made in about a minute */
export async function pocketExperts(): Promise<string> {
  if (existsSync(EXPERTS)) return EXPERTS;
  console.log("Making one expert of each of seven kinds of text, and a router that chooses among them …\n");
  const data = DOMAINS.map((name) => join(POCKET, "calibration", `${name}.jsonl`));
  const unfinished = existsSync(`${EXPERTS}.unfinished`) ? ["--resume"] : [];
  await run("refactor", POCKET, "--out", EXPERTS, "--data", ...data, ...SHORT, ...unfinished);
  return EXPERTS;
}
