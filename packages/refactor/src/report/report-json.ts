import type { Report } from "./report.ts";

/**
 * The text of report.json.
 *
 * @throws {RangeError} naming a figure that is no number, which JSON could not hold
 */
export function reportJson(report: Report): string {
  checkFigures(report);
  return `${JSON.stringify(report, undefined, 1)}\n`;
}

/** @throws {RangeError} naming the first figure that is NaN or infinite */
function checkFigures(report: Report): void {
  checkValue("report", report);
}

function checkValue(path: string, value: unknown): void {
  if (typeof value === "number" && !Number.isFinite(value)) {
    throw new RangeError(`Expected \`${path}\` to be a finite number, got \`${value}\``);
  }
  if (typeof value !== "object" || value === null) return;
  for (const [key, part] of Object.entries(value)) {
    checkValue(Array.isArray(value) ? `${path}[${key}]` : `${path}.${key}`, part);
  }
}
