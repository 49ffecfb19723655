import { existsSync } from "node:fs";
import { presetNamed } from "./presets/preset.ts";

// `organisation/name`, optionally with `@revision`.
const HUB_ID = /^[\w.-]+\/[\w.-]+(@[\w./-]+)?$/;

/** Reads the hub's id from an argument, unless that is a file, a folder or a preset. */
export function hubIdOf(name: string): string | undefined {
  if (existsSync(name) || presetNamed(name) || !HUB_ID.test(name)) return undefined;
  return name.replace(/@.*$/, "");
}
