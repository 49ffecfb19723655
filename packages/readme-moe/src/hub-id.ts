import { existsSync } from "node:fs";
import { type HubName, parseModelName } from "@readme-moe/model";

/** Reads a repository of the hub from an argument, unless that is a file, a folder or a short name. */
export function hubNameOf(name: string): HubName | undefined {
  const parsed = parseModelName(name, existsSync);
  return parsed.kind === "hub" ? parsed : undefined;
}
