// What the published packages bring along, and under which licences.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { licencePage, productionDependencies } from "../../tools/packages/licences.ts";
import { ROOT, workspacePackages } from "../../tools/packages/workspace.ts";

/** Those that ask for no more than to be named. */
const PERMISSIVE = [
  "MIT",
  "ISC",
  "Apache-2.0",
  "BSD-2-Clause",
  "BSD-3-Clause",
  "0BSD",
  "BlueOak-1.0.0",
  "CC0-1.0",
  "Unlicense",
];

const dependencies = productionDependencies();

test("docs/licences.md is what `npm run licences` writes", () => {
  expect(readFileSync(join(ROOT, "docs", "licences.md"), "utf8")).toBe(licencePage(dependencies));
});

test("the lockfile has every one of them", () => {
  const lockfile = readFileSync(join(ROOT, "pnpm-lock.yaml"), "utf8");
  for (const { name, version } of dependencies) expect(lockfile).toMatch(keyOf(name, version));
});

test("what packages ask for themselves is among them", () => {
  for (const { manifest } of workspacePackages()) {
    for (const name of Object.keys(manifest.dependencies ?? {})) {
      if (name === "readme-moe" || name.startsWith("@readme-moe/")) continue;
      const found = dependencies.filter((dependency) => dependency.name === name);
      expect(
        found.flatMap(({ neededBy }) => neededBy),
        name,
      ).toContain(manifest.name);
    }
  }
});

test("all are permissive", () => {
  const others = dependencies.filter(({ license }) => {
    const names = license.replaceAll(/[()]/g, "").split(/ (?:AND|OR) /);
    return !names.every((name) => PERMISSIVE.includes(name));
  });
  expect(others).toEqual([]);
});

/** A line of the lockfile's list of packages. */
function keyOf(name: string, version: string): RegExp {
  const key = `${name}@${version}`.replaceAll(/[.*+?^${}()|[\]\\]/g, String.raw`\$&`);
  return new RegExp(`^  '?${key}'?:$`, "m");
}
