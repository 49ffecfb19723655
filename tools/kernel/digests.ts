// `prebuilt/SOURCES.sha256`: digests of the binaries and of their sources, in the format of `sha256sum --check`.

import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join, relative, sep } from "node:path";
import { NATIVE, PREBUILT, ROOT } from "./places.ts";
import { TARGETS, type Target } from "./recipe.ts";

export const DIGESTS: string = join(PREBUILT, "SOURCES.sha256");

/** Names of the C files and headers of the binaries. */
export function nativeFiles(): readonly string[] {
  return readdirSync(NATIVE)
    .filter((name) => /\.[ch]$/.test(name))
    .toSorted();
}

/**
 * Computes the digests of the sources, the recipe, and the targets' binaries in `folder`, under the paths of the
 * committed ones.
 */
export function digestsOf(folder: string, targets: readonly Target[] = TARGETS): string {
  const inputs = [...nativeFiles().map((name) => join(NATIVE, name)), join(import.meta.dirname, "recipe.ts")];
  const outputs = targets.map(({ output }) => output);
  const lines = [
    ...inputs.map((path) => line(path, path)),
    ...outputs.map((output) => line(join(folder, output), join(PREBUILT, output))),
  ];
  return lines.join("");
}

function line(path: string, called: string): string {
  const digest = createHash("sha256").update(readFileSync(path)).digest("hex");
  return `${digest}  ${relative(ROOT, called).split(sep).join("/")}\n`;
}

/** Lists the paths whose digests differ between two lists. */
export function differences(first: string, second: string): readonly string[] {
  const [a, b] = [first.split("\n"), second.split("\n")];
  const changed = [...a.filter((text) => !b.includes(text)), ...b.filter((text) => !a.includes(text))];
  return [...new Set(changed.map((text) => text.split("  ")[1] ?? text))].toSorted();
}
