// The command line of `npm run bench`.

import { availableParallelism } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import { MODEL_ARGUMENT, modelPath } from "../../packages/readme-moe/src/models.ts";
import { wholeNumber } from "../../packages/readme-moe/src/options.ts";
import { runSuites } from "./run-suites.ts";
import { type BenchSettings, type Suite, suiteOfSetting } from "./suite.ts";

export interface BenchCommandOptions {
  readonly suites: readonly Suite[];
  /** Models that are measured when the command names none. */
  readonly defaults: {
    readonly model: string;
    readonly dense: string;
    /** Makes the models when they do not exist yet. */
    readonly prepare: () => Promise<unknown>;
  };
  /** Versions of the peers, by name. */
  readonly peers: Readonly<Record<string, string>>;
  readonly signal: AbortSignal;
}

/** A suite failed. The reason was printed when it did. */
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

/** Makes the command `[suites] [model]`, which runs suites and writes results into a folder. */
export function benchCommand({ suites, defaults, peers, signal }: BenchCommandOptions): Command {
  const command = new Command("bench")
    .description(
      `Measures, and writes samples, pictures and a summary into a folder. Suites:\n\n${suites
        .map(({ name, summary }) => `  ${name.padEnd(10)} ${summary}`)
        .join("\n")}`,
    )
    .argument("[suites]", "names separated by commas, or `all`", "all")
    .argument("[model]", `${MODEL_ARGUMENT} (default: ${defaults.model})`)
    .option("--dense <model>", "the dense model that <model> was made from: the baseline, and the model that peers run")
    .option("--data <paths...>", "texts: files, or folders of <domain>.jsonl (default: each suite's own)", [])
    .option("--quick", "a short run that shows whether everything works, not how fast it is", false)
    .option("--rounds <n>", "measurements of each variant (default: 3; quick: 1)", wholeNumber(1))
    .option("--seed <n>", "seed of prompts, arrivals, sampling and intervals", wholeNumber(0), 1)
    .option("--threads <n>", "threads of every engine (default: all cores)", wholeNumber(1))
    .option("--set <name=value...>", "settings of suites, such as concurrency=1,8 or limits.contexts=128", setting)
    .option("--out <dir>", `folder for results; a run that was cut off continues there (default: ${RESULTS}/<time>)`)
    .option("--cache-folder <dir>", "folder of packed weights, presets and peers");
  return command.action(async (names: string, named: string | undefined, flags: Flags) => {
    const chosen = chosenSuites(command, suites, names);
    for (const name of Object.keys(flags.set ?? {})) {
      const suite = suiteOfSetting(name);
      if (suite !== undefined) suiteNamed(command, suites, suite);
    }
    if (named === undefined) await defaults.prepare();
    const pathOf = (name: string): Promise<string> => modelPath(name, signal, flags);
    const baseline = named === undefined ? defaults.dense : undefined;
    const settings = {
      model: await pathOf(named ?? defaults.model),
      dense: flags.dense === undefined ? baseline : await pathOf(flags.dense),
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
