import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

const DOMAINS = join(import.meta.dirname, "..", "..", "..", "shared", "data", "domains");

/** The held-out documents of a domain (line index % 12 == 11), or `undefined` where `shared/data` is absent. */
export function evaluationDocuments(domain: string): readonly string[] | undefined {
  const path = join(DOMAINS, `${domain}.jsonl`);
  if (!existsSync(path)) return undefined;
  return readFileSync(path, "utf8")
    .split("\n")
    .filter((line, index) => line !== "" && index % 12 === 11)
    .map((line) => (JSON.parse(line) as { text: string }).text);
}
