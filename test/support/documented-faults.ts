// The table of faults in docs/how-to/troubleshoot.md, held against what a server does.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { until, type Probes, type ServingProcess } from "./serving-process.ts";

const PAGE = join(import.meta.dirname, "..", "..", "docs", "how-to", "troubleshoot.md");

interface DocumentedMetric {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
}

/** One row: what is said of a fault. */
export interface DocumentedFault {
  readonly name: string;
  /** Events of the log, in their order. */
  readonly events: readonly string[];
  readonly probes: Probes;
  /** Which are above 0 while it lasts. */
  readonly metrics: readonly DocumentedMetric[];
}

const HEADING = "### Faults and their symptoms";

/** All rows of the table that have status codes. */
export function documentedFaults(): readonly DocumentedFault[] {
  const page = readFileSync(PAGE, "utf8");
  const [, section = ""] = page.split(`${HEADING}\n`);
  const rows =
    section
      .split("\n#")[0]
      ?.split("\n")
      .filter((line) => line.startsWith("|")) ?? [];
  return rows.slice(2).map((row) => {
    const [name = "", log = "", health, readyz, livez, metrics = ""] = row
      .split("|")
      .slice(1, -1)
      .map((cell) => cell.trim());
    return {
      name,
      events: codes(log).filter((code) => /^[a-z]+:[a-z-]+$/.test(code)),
      probes: { health: Number(health), readyz: Number(readyz), livez: Number(livez) },
      metrics: codes(metrics).map(metricOf),
    };
  });
}

function codes(cell: string): readonly string[] {
  return Array.from(cell.matchAll(/`([^`]+)`/g), ([, code = ""]) => code);
}

function metricOf(text: string): DocumentedMetric {
  const [, name = "", labels = ""] = /^(\w+)(?:\{(.*)\})?$/.exec(text) ?? [];
  const pairs = Array.from(labels.matchAll(/(\w+)="([^"]*)"/g), ([, label = "", value = ""]) => [label, value]);
  return { name: `readme_${name}`, labels: Object.fromEntries(pairs) as Record<string, string> };
}

/** The row of a fault. */
export function documentedFault(name: string): DocumentedFault {
  const fault = documentedFaults().find((one) => one.name === name);
  if (!fault) throw new Error(`Expected a row of the table of faults for: ${name}`);
  return fault;
}

/** Waits until a server shows a fault as its row has it, log aside: that is complete only when the fault is over. */
export async function shownAsDocumented(name: string, server: ServingProcess): Promise<DocumentedFault> {
  const fault = documentedFault(name);
  await until(async () => {
    const probes = await server.probes();
    const scraped = await server.metrics();
    return (
      JSON.stringify(probes) === JSON.stringify(fault.probes) &&
      fault.metrics.every((metric) => (scraped.value(metric.name, { ...metric.labels }) ?? 0) > 0)
    );
  });
  return fault;
}

/** Waits until the log has a fault's events in the order of its row. */
export async function loggedAsDocumented({ events }: DocumentedFault, server: ServingProcess): Promise<void> {
  let after = -1;
  for (const event of events) {
    const entry = await server.logged(event, (one) => server.entries.indexOf(one) > after);
    after = server.entries.indexOf(entry);
  }
}
