import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

const DOMAINS = join(import.meta.dirname, "..", "..", "..", "shared", "data", "domains");

/** All documents of a domain, or `undefined` where `shared/data` is absent. */
export function domainDocuments(domain: string): readonly string[] | undefined {
  const path = join(DOMAINS, `${domain}.jsonl`);
  if (!existsSync(path)) return undefined;
  const lines = readFileSync(path, "utf8").split("\n");
  return lines.filter((line) => line !== "").map((line) => (JSON.parse(line) as { text: string }).text);
}

/** The held-out documents of a domain (index % 12 == 11), or `undefined` where `shared/data` is absent. */
export function evaluationDocuments(domain: string): readonly string[] | undefined {
  return domainDocuments(domain)?.filter((_, index) => index % 12 === 11);
}
