// Runs suites one after the other and writes their reports into a folder.

import { join } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { writeFileAtomically } from "@readme-moe/model";
import { samplesCsv } from "./samples.ts";
import { reportMarkdown, wantedMarkdown } from "./report.ts";
import { type BenchSettings, settingsOfSuite, type Suite, type SuiteReport, type Target } from "./suite.ts";
import { describeMachine, machineMarkdown } from "./machine.ts";
import { openKept, openResultsFolder } from "./results-folder.ts";

/** Options of a run. */
export interface RunSuitesOptions {
  readonly folder: string;
  readonly settings: BenchSettings;
  /** Versions of the peers, by name. */
  readonly peers?: Readonly<Record<string, string>>;
  readonly say: (text: string) => void;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Runs suites. A suite that fails does not stop the others; its error is printed.
 * @returns the summary as Markdown, and the names of failed suites
 */
export async function runSuites(
  suites: readonly Suite[],
  { folder, settings, peers, say, signal }: RunSuitesOptions,
): Promise<{ readonly summary: string; readonly failed: readonly string[] }> {
  await openResultsFolder(folder, settings);
  const machine = describeMachine(peers);
  await writeFileAtomically(join(folder, "machine.json"), `${JSON.stringify(machine, undefined, 2)}\n`);
  const failed: string[] = [];
  const sections: string[] = [];
  const wanted = new Map<string, readonly Target[]>();
  const write = async (): Promise<string> => {
    const what = `${settings.model}${settings.quick ? ", the short version" : ""}, ${settings.threads} threads, seed ${settings.seed}`;
    const head = ["# Benchmark", machineMarkdown(machine), `Model: ${what}.`, ...wantedMarkdown(wanted)];
    const summary = [...head, ...sections].join("\n\n");
    await writeFileAtomically(join(folder, "summary.md"), summary);
    return summary;
  };
  let summary = await write();
  for (const suite of suites) {
    signal?.throwIfAborted();
    const startMs = performance.now();
    say(`${suite.name}: ${suite.summary}`);
    const suiteFolder = join(folder, suite.name);
    try {
      const keep = await openKept(suiteFolder);
      const report = await suite.run({
        settings: settingsOfSuite(settings, suite.name),
        folder: suiteFolder,
        keep: (key, work) => {
          signal?.throwIfAborted();
          return keep(key, work);
        },
        signal,
        say,
      });
      await writeReport(suiteFolder, suite, report);
      wanted.set(suite.name, report.targets ?? []);
      sections.push(reportMarkdown(suite, report, `${suite.name}/`));
      say(`${suite.name}: done in ${((performance.now() - startMs) / 1000).toFixed(0)} s`);
    } catch (error) {
      if (signal?.aborted) throw error;
      failed.push(suite.name);
      const message = error instanceof Error ? error.message : String(error);
      // Errors of a caller or a file are printed without a stack, which would not help.
      const isSaid = error instanceof TypeError || error instanceof RangeError || error instanceof ReadMeError;
      sections.push(`## ${suite.name}\n\nFailed: ${message}\n`);
      say(`${suite.name} failed: ${error instanceof Error && !isSaid ? (error.stack ?? message) : message}`);
    }
    summary = await write();
  }
  return { summary, failed };
}

async function writeReport(folder: string, suite: Suite, report: SuiteReport): Promise<void> {
  await writeFileAtomically(join(folder, "samples.csv"), samplesCsv(report.samples));
  await writeFileAtomically(join(folder, "report.md"), reportMarkdown(suite, report));
  if (report.pictures === undefined) return;
  // Drawing brings in more than a process that only measures should hold.
  const { linePicture, stackedPicture } = await import("@readme-moe/refactor");
  for (const { name, picture } of report.pictures) {
    const svg = await ("bars" in picture ? stackedPicture(picture) : linePicture(picture));
    await writeFileAtomically(join(folder, `${name}.svg`), svg);
  }
}
