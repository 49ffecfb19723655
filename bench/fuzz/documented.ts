// Reads the statuses and codes of errors that the documentation lists.

import { readFileSync } from "node:fs";
import { join } from "node:path";

const PAGE = join(import.meta.dirname, "../../docs/express.md");
const ROW = /^\| (\d{3}) +\| (.*) \|$/gm;

/** Reads codes of errors by status from the table of docs/express.md. */
export function documentedCodes(): ReadonlyMap<number, ReadonlySet<string>> {
  const rows = [...readFileSync(PAGE, "utf8").matchAll(ROW)].map(
    ([, status, codes = ""]) =>
      [Number(status), new Set(Array.from(codes.matchAll(/`([a-z_]+)`/g), ([, code = ""]) => code))] as const,
  );
  if (rows.length < 5) throw new Error(`Expected a table of errors in ${PAGE}`);
  return new Map(rows);
}
