// Runs suites one after the other, and leaves what they found in a folder.

import { join } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { writeFileAtomically } from "@readme-moe/model";
import { samplesCsv } from "./samples.ts";
import { reportMarkdown, wantedMarkdown } from "./report.ts";
import { type BenchSettings, settingsOfSuite, type Suite, type SuiteReport, type Target } from "./suite.ts";
import { describeMachine, machineMarkdown } from "./machine.ts";
import { openKept, openResultsFolder } from "./results-folder.ts";

/** Where results go, and what suites are told. */
export interface RunSuitesOptions {
  readonly folder: string;
  readonly settings: BenchSettings;
  /** Versions of those that take part, by their names. */
  readonly peers?: Readonly<Record<string, string>>;
  readonly say: (text: string) => void;
  readonly signal?: AbortSignal | undefined;
}

/**
 * A suite that fails holds up no other; what went wrong is said.
 * @returns the summary as Markdown, and names of suites that failed
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
      // Of what a caller or a file is to blame for, where it was thrown tells nothing.
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
    const svg = "bars" in picture ? stackedPicture(picture) : linePicture(picture);
    await writeFileAtomically(join(folder, `${name}.svg`), svg);
  }
}
