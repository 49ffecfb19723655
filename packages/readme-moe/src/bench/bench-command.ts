import { availableParallelism } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import { MODEL_ARGUMENT, modelPath } from "../model-path.ts";
import { wholeNumber } from "../options.ts";
import { runSuites } from "./kit/run-suites.ts";
import { type BenchSettings, type Suite, suiteOfSetting } from "./kit/suite.ts";

/** What a program makes a `bench` command of. */
export interface BenchCommandOptions {
  readonly suites: readonly Suite[];
  /** What is measured where the command names nothing. @default the command has to name a model */
  readonly defaults?: {
    readonly model: string;
    readonly dense: string;
    /** Makes them where they are not there yet. */
    readonly prepare?: () => Promise<unknown>;
  };
  /** Versions of those that suites measure beside ours, by their names. */
  readonly peers?: Readonly<Record<string, string>>;
  readonly signal: AbortSignal;
}

/** Some suite failed. Why was said when it did. */
export class BenchFailure extends Error {
  override readonly name = "BenchFailure";
}

interface Flags {
  readonly dense?: string;
  readonly data: readonly string[];
  readonly quick: boolean;
  readonly rounds?: number;
  readonly seed: number;
  readonly threads?: number;
  readonly out?: string;
  readonly set?: Readonly<Record<string, string>>;
  readonly cacheFolder?: string;
}

const RESULTS = "bench-results";

/** The command `bench [suites] [model]`, for a program of yours: runs suites and leaves results in a folder. */
export function benchCommand({ suites, defaults, peers = {}, signal }: BenchCommandOptions): Command {
  const command = new Command("bench")
    .summary("measures a model on this machine")
    .description(
      `Measures, and leaves samples, pictures and a summary in a folder. Suites:\n\n${suites
        .map(({ name, summary }) => `  ${name.padEnd(10)} ${summary}`)
        .join("\n")}`,
    )
    .argument(defaults ? "[suites]" : "<suites>", "their names, with commas between them, or `all`", defaults && "all")
    .argument(defaults ? "[model]" : "<model>", MODEL_ARGUMENT + (defaults ? ` (default: ${defaults.model})` : ""))
    .option("--dense <model>", "the dense model that <model> was made from: the baseline, and what peers run")
    .option("--data <paths...>", "texts: files, or folders of <domain>.jsonl (default: what a suite brings)", [])
    .option("--quick", "a short version: whether it runs, not how fast", false)
    .option("--rounds <n>", "measurements of each variant (default: 3; quick: 1)", wholeNumber(1))
    .option("--seed <n>", "of prompts, arrivals, sampling and intervals", wholeNumber(0), 1)
    .option("--threads <n>", "of every engine (default: all cores)", wholeNumber(1))
    .option(
      "--set <name=value...>",
      "what suites ask for by name, such as concurrency=1,8 or limits.contexts=128",
      setting,
    )
    .option("--out <dir>", `where results go; one of before goes on where it was (default: ${RESULTS}/<time>)`)
    .option("--cache-folder <dir>", "as of all commands");
  return command.action(async (names: string, named: string | undefined, flags: Flags) => {
    const chosen = chosenSuites(command, suites, names);
    for (const name of Object.keys(flags.set ?? {})) {
      const suite = suiteOfSetting(name);
      if (suite !== undefined) suiteNamed(command, suites, suite);
    }
    const [model, dense] =
      named === undefined && defaults ? [defaults.model, defaults.dense] : [named ?? "", undefined];
    if (named === undefined) await defaults?.prepare?.();
    const pathOf = (name: string): Promise<string> => modelPath(name, signal, flags.cacheFolder);
    const settings = {
      model: await pathOf(model),
      dense: flags.dense === undefined ? dense : await pathOf(flags.dense),
    };
    const folder = flags.out ?? join(RESULTS, new Date().toISOString().slice(0, 19).replaceAll(":", ""));
    say(`results: ${folder}`);
    const run = { folder, settings: { ...settings, ...settingsOf(flags) }, peers, say, signal };
    const { summary, failed } = await runSuites(chosen, run);
    process.stdout.write(summary);
    if (failed.length > 0) throw new BenchFailure(`suites that failed: ${failed.join(", ")}`);
  });
}

function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

function settingsOf(flags: Flags): Omit<BenchSettings, "model" | "dense"> {
  const { data, quick, rounds = quick ? 1 : 3, seed, cacheFolder, set = {} } = flags;
  return { data, quick, rounds, seed, threads: flags.threads ?? availableParallelism(), cacheFolder, set };
}

function chosenSuites(command: Command, suites: readonly Suite[], names: string): readonly Suite[] {
  if (names === "all") return suites;
  return names.split(",").map((name) => suiteNamed(command, suites, name));
}

function suiteNamed(command: Command, suites: readonly Suite[], name: string): Suite {
  const suite = suites.find((one) => one.name === name.trim());
  if (suite) return suite;
  return command.error(`error: there is no suite '${name}'; there are ${suites.map((one) => one.name).join(", ")}`);
}

function setting(text: string, before: Readonly<Record<string, string>> = {}): Readonly<Record<string, string>> {
  const at = text.indexOf("=");
  if (at > 0) return { ...before, [text.slice(0, at)]: text.slice(at + 1) };
  throw new TypeError(`Expected \`--set\` to be a name and a value, such as concurrency=1,8, got \`${text}\``);
}
