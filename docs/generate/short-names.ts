// Generates the table of short names from the table that the code uses.

import { fullName, isSupported, KNOWN_MODELS, memoryBytesOf, parametersOf } from "@readme-moe/model";
import { code, table } from "./markdown.ts";

export function shortNameTable(): string {
  const rows = KNOWN_MODELS.map((model) => [
    code(model.name) + (isSupported(model) ? "" : " (not supported yet)"),
    millions(parametersOf(model)),
    model.sources.map((source) => sourceText(fullName(model, source), source)).join("; "),
    `${megabytes(memoryBytesOf(model, "int8"))}, ${megabytes(memoryBytesOf(model, "int4"))}`,
    model.license,
  ]);
  return table(["name", "parameters, M", "weights and download, MB", "memory in int8, int4, MB", "licence"], rows);
}

function sourceText(name: string, { bytes, isGated = false }: { bytes: number; isGated?: boolean }): string {
  return `${code(name.replace(/^.*-/, ""))} ${megabytes(bytes)}${isGated ? " (gated)" : ""}`;
}

function megabytes(bytes: number): string {
  return Math.round(bytes / 1e6).toLocaleString("en");
}

function millions(count: number): string {
  return Math.round(count / 1e6).toLocaleString("en");
}
