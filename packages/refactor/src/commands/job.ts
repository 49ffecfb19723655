// Parts of commands that run jobs: flags of their options, their texts and machines, and what they print.

import { once } from "node:events";
import { type Command, InvalidArgumentError, Option } from "commander";
import {
  artefactsOption,
  type FleetFlags,
  fleetOption,
  jsonOption,
  numberThat,
  readDocuments,
  reportSeldom,
  requireOption,
  type RuntimeFlags,
  shortName,
  showStatus,
  stopSignals,
  wholeNumber,
  withModelFiles,
} from "readme-moe/command-parts";
import { openArtefacts } from "../artefacts.ts";
import type { DomainText } from "../job/prepare-domain.ts";
import type { LabTable, LabOption } from "../option-table.ts";
import type { RefactorFleet } from "../options.ts";
import { RefactorWorker } from "../tasks/refactor-worker.ts";

/** Flags of every job, beside those of its options. */
export interface JobFlags extends FleetFlags {
  readonly out: string;
  readonly data: readonly DataArgument[];
  readonly threads?: number;
  readonly artefacts?: string;
  readonly resume: boolean;
  readonly json: boolean;
}

/** Adds the flags of a job. @param fleet - help of the machines' flag */
export function addJobFlags(command: Command, options: readonly Option[], fleet: string): Command {
  command
    .option("--out <folder>", "a folder that does not exist yet, or is empty (required)")
    .addOption(
      new Option(
        "--data <name=file...>",
        'text of each kind: .jsonl files of {"text": …}, or text files; every twelfth document is held out for evaluation (required)',
      ).argParser(dataArgument),
    );
  for (const option of options) command.addOption(option);
  return command
    .option("--threads <n>", "threads of the inference runtime (default: all cores)", wholeNumber(1))
    .addOption(fleetOption(fleet))
    .addOption(artefactsOption())
    .option("--resume", "continue unfinished work for this folder", false)
    .addOption(jsonOption());
}

/** Refuses a call without the flags that a job needs. */
export function requireJobFlags(command: Command, { artefacts }: JobFlags, ...more: readonly string[]): void {
  for (const name of ["out", "data", ...more]) requireOption(command, name);
  // A machine that serves a fleet has its URL in the environment, and may still work alone.
  if (command.getOptionValueSource("fleet") === "cli") requireOption(command, "artefacts");
  if (artefacts !== undefined) requireOption(command, "fleet");
}

/** Prints the report of a job when it is done. */
export async function printReport<Report>(
  job: Promise<Report>,
  { json }: JobFlags,
  summaryOf: (report: Report) => string,
): Promise<void> {
  const report = await job.finally(() => showStatus());
  console.log(json ? JSON.stringify(report) : summaryOf(report));
}

/**
 * Makes the flags of a table of options.
 *
 * @param others - options of other kinds of work that the command does, too, by their names in the help
 */
export function flagsOf(table: LabTable, others: Readonly<Record<string, LabTable>> = {}): readonly Option[] {
  const tables = Object.entries({ "": table, ...others });
  const names = new Set(tables.flatMap(([, own]) => Object.keys(own)));
  return Array.from(names).flatMap((name) => {
    const found = tables.flatMap(([kind, own]) => {
      const option = own[name];
      return option ? [{ kind, option, words: defaultOf(option) }] : [];
    });
    const [first] = found;
    if (first?.option.about === undefined) return [];
    const words = found.flatMap(({ kind, words: own }, index) => {
      if (own === undefined || (index > 0 && own === first.words)) return [];
      return [index > 0 ? `${kind}: ${own}` : own];
    });
    const about = first.kind === "" ? first.option.about : `${first.kind}: ${first.option.about}`;
    const help = words.length === 0 ? about : `${about} (default: ${words.join("; ")})`;
    const options = found.map(({ option }) => option);
    return [flagOf(name, help, first.option, options)];
  });
}

function defaultOf({ default: value, otherwise }: LabOption): string | undefined {
  return otherwise ?? (typeof value === "boolean" || value === undefined ? undefined : `${value}`);
}

/** @param options - all that the flag stands for */
function flagOf(
  name: string,
  help: string,
  { kind, default: fallback }: LabOption,
  options: readonly LabOption[],
): Option {
  const spelt = name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
  if (kind === "switch") return new Option(fallback === true ? `--no-${spelt}` : `--${spelt}`, help);
  const choices = new Set(options.flatMap((option) => option.choices ?? []));
  if (kind === "choice") return new Option(`--${spelt} <name>`, help).choices([...choices]);
  const least = Math.min(...options.map(({ min = 0 }) => min));
  if (kind === "integer") return new Option(`--${spelt} <n>`, help).argParser(wholeNumber(least));
  const most = Math.max(...options.map(({ max = Infinity }) => max));
  const range = most === Infinity ? `${least} up` : `${least} to ${most}`;
  const number = numberThat((value) => value >= least && value <= most, `a number from ${range}`);
  return new Option(`--${spelt} <number>`, help).argParser((text) => (choices.has(text) ? text : number(text)));
}

// Jobs on several machines: the fleet of a coordinator, and a machine of it.

const NO_MACHINE =
  "note: no machine takes the tasks; start `readme-moe worker <model> --refactor` with the same model, --fleet and --artefacts";

/**
 * Opens the machines behind a URL, which are found through their queue.
 *
 * @returns nothing without a URL, or without a place that the machines share
 */
export async function openRefactorFleet(
  { fleet, artefacts: place }: Pick<JobFlags, "fleet" | "artefacts">,
  { pollMs }: { readonly pollMs?: number } = {},
): Promise<(RefactorFleet & AsyncDisposable) | undefined> {
  if (fleet === undefined || place === undefined) return undefined;
  const { FlowCoordinator } = await import("@readme-moe/fleet");
  const artefacts = await openArtefacts(place);
  const coordinator = await FlowCoordinator.open({ fleet, pollMs, onError: reportSeldom(), onIdle: reportNoMachine });
  return {
    artefacts,
    run: (flow) => coordinator.run(flow),
    [Symbol.asyncDispose]: () => coordinator.close(),
  };
}

function reportNoMachine(): void {
  console.error(NO_MACHINE);
}

interface MachineFlags extends Pick<RuntimeFlags, "threads" | "cacheFolder"> {
  readonly fleet: string;
  readonly artefacts: string;
}

/** Takes tasks until a signal stops the machine. */
export async function runRefactorWorker(
  path: string,
  { fleet, artefacts: place, threads, cacheFolder }: MachineFlags,
  interrupted: AbortSignal,
): Promise<void> {
  const { FlowWorker, parseFleetUrl } = await import("@readme-moe/fleet");
  const address = parseFleetUrl(fleet);
  using stop = stopSignals(interrupted);
  const abort = new AbortController();
  const takeTasks = async (machine: RefactorWorker): Promise<void> => {
    const { machines } = machine;
    const run = ({ plan, task }: { plan: string; task: string }): Promise<void> => machine.run(plan, task);
    const worker = FlowWorker.open({ fleet: address, machines, run, abort, onError: reportSeldom() });
    console.log(`machine ${machines.slice(0, 8)}`);
    if (!stop.signal.aborted) await once(stop.signal, "abort");
    await worker.close();
  };
  const open = { artefacts: await openArtefacts(place), threads, signal: abort.signal };
  await withModelFiles(
    path,
    stop.signal,
    async (model) => {
      const machine = await RefactorWorker.open(model, open);
      try {
        await takeTasks(machine);
      } finally {
        await machine.dispose();
      }
    },
    cacheFolder === undefined ? {} : { cacheFolder },
  );
}

// Texts of each kind.

/** One `NAME=FILE` of the command line. */
export interface DataArgument {
  readonly name: string;
  readonly file: string;
}

/** Parses `NAME=FILE`, or a file whose name without extensions is the domain's, for commander's variadic options. */
export function dataArgument(text: string, previous: readonly DataArgument[] = []): readonly DataArgument[] {
  const [, name = shortName(text), file = text] = /^([^=/\\]+)=(.+)$/s.exec(text) ?? [];
  if (name.trim() === "") throw new InvalidArgumentError("Expected NAME=FILE, such as code=code.jsonl.");
  return [...previous, { name, file }];
}

/** Reads domains. Files with the same name are one domain. @throws {ReadMeError} naming the wrong file */
export async function readDomains(data: readonly DataArgument[]): Promise<readonly DomainText[]> {
  const domains = new Map<
    string,
    { readonly files: string[]; readonly documents: string[]; readonly licenses: Set<string> }
  >();
  for (const { name, file } of data) {
    const domain = domains.get(name) ?? { files: [], documents: [], licenses: new Set<string>() };
    domains.set(name, domain);
    domain.files.push(file);
    for (const { text, license } of await readDocuments(file)) {
      domain.documents.push(text);
      if (license !== undefined) domain.licenses.add(license);
    }
  }
  return Array.from(domains, ([name, { licenses, ...domain }]) => ({
    name,
    ...domain,
    licenses: [...licenses].sort(),
  }));
}
