// The files that a report becomes in a model folder.

import { modelCard } from "./model-card.ts";
import { reportPictures } from "./pictures/report-pictures.ts";
import type { Report } from "./report.ts";

/**
 * Writes a report as report.json, README.md and pictures/*.svg, by name. The same report gives the same bytes.
 *
 * @throws {RangeError} naming a figure that is not a finite number
 */
export async function reportDocuments(report: Report): Promise<Readonly<Record<string, string>>> {
  const json = reportJson(report);
  const pictures = await reportPictures(report);
  return {
    "report.json": json,
    "README.md": modelCard(report, pictures),
    ...Object.fromEntries(pictures.map(({ file, svg }) => [file, svg])),
  };
}

/** Writes report.json. @throws {RangeError} naming a figure that is not a finite number, which JSON cannot hold */
export function reportJson(report: object): string {
  checkFigures("report", report);
  return `${JSON.stringify(report, undefined, 1)}\n`;
}

function checkFigures(path: string, value: unknown): void {
  if (typeof value === "number" && !Number.isFinite(value)) {
    throw new RangeError(`Expected \`${path}\` to be a finite number, got \`${value}\``);
  }
  if (typeof value !== "object" || value === null) return;
  for (const [key, part] of Object.entries(value)) {
    checkFigures(Array.isArray(value) ? `${path}[${key}]` : `${path}.${key}`, part);
  }
}
