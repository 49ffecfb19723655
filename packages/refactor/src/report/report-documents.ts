import { modelCard } from "./model-card.ts";
import { reportPictures } from "./pictures/report-pictures.ts";
import { reportJson } from "./report-json.ts";
import type { Report } from "./report.ts";

/**
 * What a report becomes in a model folder: report.json, README.md and pictures/*.svg, by name. The same report gives the
 * same bytes.
 *
 * @throws {RangeError} naming a figure that is no finite number
 */
export function reportDocuments(report: Report): Readonly<Record<string, string>> {
  const json = reportJson(report);
  const pictures = reportPictures(report);
  return {
    "report.json": json,
    "README.md": modelCard(report, pictures),
    ...Object.fromEntries(pictures.map(({ file, svg }) => [file, svg])),
  };
}
