// Makes the refactored form of the embedded pocket model, unless it exists.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { runCli } from "readme-moe";
import { locked } from "./lock.mjs";

const MODELS = join(import.meta.dirname, "..", "models");
/** The dense model that the experts are made from. */
export const POCKET: string = join(MODELS, "pocket");
const DOMAINS = ["arxiv", "book", "c4", "common_crawl", "github", "stackexchange", "wikipedia"];
// Half a minute of work; without these options it takes two minutes, and the result is slightly better.
const SHORT = ["--calibration-tokens", "3072", "--router-steps", "140"];

export interface PocketExpertsOptions {
  /** @default `models/pocket-experts` */
  readonly folder?: string | undefined;
  /** Kinds of text; one expert is made for each. @default seven kinds */
  readonly domains?: readonly string[] | undefined;
  /** Options of `readme-moe refactor`. @default options for half a minute of work */
  readonly effort?: readonly string[] | undefined;
}

/** Folder, domains and effort of the experts. */
interface Wanted {
  readonly folder: string;
  readonly domains: readonly string[];
  readonly effort: readonly string[];
}

/** Runs one command of `readme-moe`; ends the process when it fails. */
export async function run(...args: readonly string[]): Promise<void> {
  const code = await runCli(args);
  if (code !== 0) process.exit(code);
}

function sayWaiting(pid: number): void {
  console.log(`Process ${pid} makes the pocket model's experts: waiting …`);
}

/** Makes the model in about half a minute, unless it exists. @returns its folder */
export async function pocketExperts({
  folder = join(MODELS, "pocket-experts"),
  domains = DOMAINS,
  effort = SHORT,
}: PocketExpertsOptions = {}): Promise<string> {
  const unlock = existsSync(folder) ? undefined : await locked(`${folder}.lock`, sayWaiting);
  try {
    if (!existsSync(folder)) await makeExperts({ folder, domains, effort });
    return folder;
  } finally {
    unlock?.();
  }
}

async function makeExperts({ folder, domains, effort }: Wanted): Promise<void> {
  console.log(
    `Making one expert for each of ${domains.length} kinds of text, and a router that chooses among them …\n`,
  );
  const data = domains.map((name) => join(POCKET, "calibration", `${name}.jsonl`));
  const unfinished = existsSync(`${folder}.unfinished`) ? ["--resume"] : [];
  await run("refactor", POCKET, "--out", folder, "--data", ...data, ...effort, ...unfinished);
}
