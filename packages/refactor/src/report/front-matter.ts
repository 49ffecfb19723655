// The YAML at the head of a model card, which the Hugging Face hub reads.

import type { BaseReport } from "./report.ts";

/** Licences that the hub knows by the lower case of their SPDX id or their own name. */
const HUB_LICENSES = new Set([
  "apache-2.0",
  "mit",
  "bsd-2-clause",
  "bsd-3-clause",
  "isc",
  "cc0-1.0",
  "cc-by-4.0",
  "cc-by-sa-4.0",
  "cc-by-nc-4.0",
  "gpl-3.0",
  "agpl-3.0",
  "unlicense",
  "llama2",
  "llama3",
  "llama3.1",
  "llama3.2",
  "llama3.3",
  "gemma",
  "other",
]);

export function frontMatter({ hub_id: hubId, license }: BaseReport): string {
  const isKnown = license !== undefined && HUB_LICENSES.has(license.toLowerCase());
  const lines = [
    ...(hubId ? [`base_model: ${quoted(hubId)}`] : []),
    ...(isKnown ? [`license: ${quoted(license.toLowerCase())}`] : []),
    ...(license !== undefined && !isKnown ? ["license: other", `license_name: ${quoted(license)}`] : []),
    "library_name: readme-moe",
    "pipeline_tag: text-generation",
    "tags:",
    ...["readme-moe", "mixture-of-experts", "pre-gating", "arxiv:2410.19123"].map((tag) => `  - ${quoted(tag)}`),
  ];
  return `---\n${lines.join("\n")}\n---\n`;
}

/** JSON strings are YAML strings. */
function quoted(text: string): string {
  return JSON.stringify(text);
}
