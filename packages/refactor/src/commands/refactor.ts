import { existsSync } from "node:fs";
import { parseModelName, sourceFor } from "@readme-moe/model";
import { Command } from "commander";
import { MODEL_ARGUMENT, showStatus, signed, withModelFiles } from "readme-moe/command-parts";
import { pickOptions } from "../option-table.ts";
import { FLEET_SHARDS, REFACTOR_OPTIONS, type RefactorOptions, type RefactorProgress } from "../options.ts";
import { refactor } from "../refactor.ts";
import type { Report } from "../report/report.ts";
import {
  addJobFlags,
  flagsOf,
  type JobFlags,
  openRefactorFleet,
  printReport,
  readDomains,
  requireJobFlags,
} from "./job.ts";

type RefactorFlags = JobFlags & RefactorOptions;

export function refactorCommand(signal: AbortSignal): Command {
  const command = new Command("refactor")
    .summary("turn a dense model into a mixture of experts")
    .description(
      "Cuts a dense model's feed-forward layers into one expert per kind of text, trains the small router that chooses " +
        "among them from token ids, and writes a Read-ME model folder with a report of the loss in quality.",
    )
    .argument("<model>", MODEL_ARGUMENT);
  const machines = "fit layers on the machines of this Valkey or Redis (`worker --refactor`)";
  return addJobFlags(command, flagsOf(REFACTOR_OPTIONS), machines).action((path: string, flags: RefactorFlags) => {
    requireJobFlags(command, flags);
    return runRefactor(path, flags, signal);
  });
}

async function runRefactor(path: string, flags: RefactorFlags, signal: AbortSignal): Promise<void> {
  const { out, data, json, resume, threads } = flags;
  const domains = await readDomains(data);
  await withModelFiles(path, signal, async (model) => {
    const onProgress = json ? undefined : showProgress;
    await using fleet = await openRefactorFleet(flags);
    const run = { source: path, hubId: repositoryOf(path), resume, threads, signal, onProgress, fleet };
    const shards = flags.shards ?? (fleet ? FLEET_SHARDS : 1);
    const job = refactor(model, domains, out, { ...pickOptions(REFACTOR_OPTIONS, flags), shards, ...run });
    await printReport(job, flags, (report) => summaryOf(report, out));
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
