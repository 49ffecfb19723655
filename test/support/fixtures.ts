import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

const ROOT = join(import.meta.dirname, "..", "fixtures");

/** The folder of a fixture, such as `families/qwen3`. */
export function fixture(name: string): string {
  return join(ROOT, name);
}

export function fixtureNames(folder: string): readonly string[] {
  return readdirSync(join(ROOT, folder)).map((name) => `${folder}/${name}`);
}

/** A fixture's numbers; what they look like is the reader's to say. */
export function golden(name: string): unknown {
  return JSON.parse(readFileSync(join(ROOT, name, "golden.json"), "utf8"));
}
