import { existsSync } from "node:fs";
import { type HubName, parseModelName, sourceFor } from "@readme-moe/model";

/** Reads a repository of the hub from an argument, unless that is a file, a folder or a short name. */
export function hubNameOf(name: string): HubName | undefined {
  const parsed = parseModelName(name, existsSync);
  return parsed.kind === "hub" ? parsed : undefined;
}

/** Returns the repository that a name stands for, `organisation/name`; `undefined` for files and folders. */
export function repositoryOf(name: string): string | undefined {
  const parsed = parseModelName(name, existsSync);
  if (parsed.kind === "hub") return parsed.repository;
  return parsed.kind === "known" ? (parsed.source ?? sourceFor(parsed.model)).repository : undefined;
}
