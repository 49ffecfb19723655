import { existsSync } from "node:fs";
import { parseModelName, sourceFor } from "@readme-moe/model";
import { EXPERTS_FROM, METHODS, type Method, type RefactorProgress } from "../options.ts";
import { refactor } from "../refactor.ts";
import type { Report } from "../report/report.ts";
import { Command, Option } from "commander";
import {
  artefactsOption,
  fleetOption,
  type FleetFlags,
  MODEL_ARGUMENT,
  withModelFiles,
  numberThat,
  wholeNumber,
  jsonOption,
  requireOption,
  showStatus,
  signed,
} from "readme-moe/command-parts";
import { dataArgument, readDomains, type DataArgument } from "./domains.ts";
import { openRefactorFleet, requireBoth } from "./machines.ts";

interface RefactorFlags extends FleetFlags {
  readonly out: string;
  readonly data: readonly DataArgument[];
  readonly method: Method;
  readonly experts?: number;
  readonly expertsFrom: "domains" | "clusters";
  readonly expertSize: number;
  readonly sharedSize: number | "auto";
  readonly officialCount: boolean;
  readonly calibrationTokens: number;
  readonly routerTokens: number;
  readonly routerSteps: number;
  readonly localityTokens: number;
  readonly evaluationSequences: number;
  readonly baselines: boolean;
  readonly seed: number;
  readonly threads?: number;
  readonly resume: boolean;
  readonly json: boolean;
  readonly shards?: number;
  readonly artefacts?: string;
}

/** Default of `--shards` with machines. */
const FLEET_SHARDS = 8;

const size = numberThat((value) => value >= 0, "a share of the dense size, such as 0.5, or a number of neurons");
const sharedSize = (text: string): number | "auto" => (text === "auto" ? text : size(text));

export function refactorCommand(signal: AbortSignal): Command {
  const command = new Command("refactor")
    .summary("turn a dense model into a mixture of experts")
    .description(
      "Cuts a dense model's feed-forward layers into one expert per kind of text, trains the small router that chooses " +
        "among them from token ids, and writes a Read-ME model folder with a report of the loss in quality.",
    )
    .argument("<model>", MODEL_ARGUMENT)
    .option("--out <folder>", "a folder that does not exist yet, or is empty (required)")
    .addOption(
      new Option(
        "--data <name=file...>",
        'text of each kind: .jsonl files of {"text": …}, or text files; every twelfth document is held out for the report (required)',
      ).argParser(dataArgument),
    )
    .addOption(new Option("--method <method>", "how experts are made").choices(METHODS).default("sequential"))
    .option("--experts <n>", "number of experts (default: one for each kind of text, else clusters)", wholeNumber(1))
    .addOption(
      new Option("--experts-from <what>", "kinds of text, or clusters of texts that need the same neurons")
        .choices(EXPERTS_FROM)
        .default("domains"),
    )
    .option("--expert-size <size>", "neurons that a token uses: a share of the dense ones, or a number", size, 0.5)
    .option(
      "--shared-size <size>",
      "neurons of --expert-size that all experts share; auto: the number with the least error",
      sharedSize,
      0,
    )
    .option("--official-count", "with --method paper: keep one neuron less, as the official code does", false)
    .option("--calibration-tokens <n>", "calibration tokens of each kind of text", wholeNumber(1), 16_384)
    .option("--router-tokens <n>", "most further tokens of each kind for the router", wholeNumber(0), 131_072)
    .option("--router-steps <n>", "steps of the router's training", wholeNumber(1), 600)
    .option("--locality-tokens <n>", "tokens over which costs are averaged to learn routes", wholeNumber(1), 64)
    .option("--evaluation-sequences <n>", "held-out sequences of 512 tokens, of each kind", wholeNumber(1), 2)
    .option("--no-baselines", "leave out the models that the result is compared with")
    .option("--seed <n>", "seed of all random choices", wholeNumber(0), 1)
    .option("--threads <n>", "threads of the inference runtime (default: all cores)", wholeNumber(1))
    .option(
      "--shards <n>",
      `parts of the text that machines take side by side; decides the last bits (default: 1, with --fleet ${FLEET_SHARDS})`,
      wholeNumber(1),
    )
    .addOption(fleetOption("fit layers on the machines of this Valkey or Redis (`worker --refactor`)"))
    .addOption(artefactsOption())
    .option("--resume", "continue unfinished work for this folder", false)
    .addOption(jsonOption());
  return command.action((path: string, flags: RefactorFlags) => {
    requireOption(command, "out");
    requireOption(command, "data");
    requireBoth(command, flags.artefacts);
    return runRefactor(path, flags, signal);
  });
}

async function runRefactor(path: string, flags: RefactorFlags, signal: AbortSignal): Promise<void> {
  const { out, data, json, resume, threads, fleet: url, artefacts, shards, ...options } = flags;
  const domains = await readDomains(data);
  await withModelFiles(path, signal, async (model) => {
    const onProgress = json ? undefined : showProgress;
    await using fleet = await openRefactorFleet({ fleet: url, artefacts });
    const run = { source: path, hubId: repositoryOf(path), resume, threads, signal, onProgress, fleet };
    const decided = { ...options, shards: shards ?? (fleet ? FLEET_SHARDS : 1) };
    const report = await refactor(model, domains, out, { ...decided, ...run }).finally(() => showStatus());
    console.log(json ? JSON.stringify(report) : summaryOf(report, out));
  });
}

function showProgress({ stage, done, of }: RefactorProgress): void {
  showStatus(`${stage} ${done} of ${of}`);
}

function summaryOf(report: Report, out: string): string {
  const width = Math.max(...report.losses.map(({ label }) => label.length));
  const rows = report.losses.map(
    ({ label, mean, above_dense: above }) => `${label.padEnd(width)}  loss ${mean.toFixed(4)}  ${signed(above)}`,
  );
  return [...rows, "", ...report.verdict, "", `Written to ${out}: try \`readme-moe chat ${out}\`.`].join("\n");
}

/** Returns the repository that a name stands for, `organisation/name`; `undefined` for files and folders. */
function repositoryOf(name: string): string | undefined {
  const parsed = parseModelName(name, existsSync);
  if (parsed.kind === "hub") return parsed.repository;
  return parsed.kind === "known" ? (parsed.source ?? sourceFor(parsed.model)).repository : undefined;
}
