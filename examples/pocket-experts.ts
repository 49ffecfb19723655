// The embedded pocket model's refactored form, made where it is not there yet.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { runCli } from "readme-moe";

const MODELS = join(import.meta.dirname, "..", "models");
/** The dense model that experts are made of. */
export const POCKET: string = join(MODELS, "pocket");
const DOMAINS = ["arxiv", "book", "c4", "common_crawl", "github", "stackexchange", "wikipedia"];
// Half a minute's worth; without these options it takes two, and the result is a little better.
const SHORT = ["--calibration-tokens", "3072", "--router-steps", "140"];

export interface PocketExpertsOptions {
  /** @default `models/pocket-experts` */
  readonly folder?: string | undefined;
  /** Kinds of text; one expert is made for each. @default seven of them */
  readonly domains?: readonly string[] | undefined;
  /** Options of `readme-moe refactor`. @default half a minute's worth of work */
  readonly effort?: readonly string[] | undefined;
}

/** Runs one command of `readme-moe`; ends the process when it fails. */
export async function run(...args: readonly string[]): Promise<void> {
  const code = await runCli(args);
  if (code !== 0) process.exit(code);
}

/** @returns the folder of the model, which is made in about half a minute where it is not there */
export async function pocketExperts({
  folder = join(MODELS, "pocket-experts"),
  domains = DOMAINS,
  effort = SHORT,
}: PocketExpertsOptions = {}): Promise<string> {
  if (existsSync(folder)) return folder;
  console.log(`Making one expert of each of ${domains.length} kinds of text, and a router that chooses among them …\n`);
  const data = domains.map((name) => join(POCKET, "calibration", `${name}.jsonl`));
  const unfinished = existsSync(`${folder}.unfinished`) ? ["--resume"] : [];
  await run("refactor", POCKET, "--out", folder, "--data", ...data, ...effort, ...unfinished);
  return folder;
}
