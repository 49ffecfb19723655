// What `npm run build:kernel` left: nobody changes the kernel's C and forgets its binaries.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { differences, DIGESTS, digestsOf, nativeFiles } from "../../../tools/kernel/digests.ts";
import { NATIVE, PREBUILT } from "../../../tools/kernel/places.ts";
import { SOURCES } from "../../../tools/kernel/recipe.ts";

test("the kernel's binaries were built from the sources that are there (else: npm run build:kernel)", () => {
  expect(differences(readFileSync(DIGESTS, "utf8"), digestsOf(PREBUILT))).toEqual([]);
});

test("every C file of the kernel is in the recipe", () => {
  const named = [...SOURCES.common, ...SOURCES.addon, ...SOURCES.wasm, SOURCES.loops].map((name) => `${name}.c`);
  expect(nativeFiles().filter((name) => name.endsWith(".c"))).toEqual(named.toSorted());
});

test("threads of a process that open kernels share no variable", () => {
  const shared = [...SOURCES.common, ...SOURCES.addon].flatMap((name) => {
    // In WebAssembly one thread opens kernels.
    const source = readFileSync(join(NATIVE, `${name}.c`), "utf8").replace(/#ifdef __wasm__\n[^]*?#else\n/, "");
    return source.split("\n").filter((line) => /^\s*static (?!inline |const )[^()]*[;=]/.test(line));
  });
  expect(shared).toEqual([]);
});

test("lists of digests differ in the paths of lines that are not in both", () => {
  expect(differences("1  a\n2  b\n", "1  a\n3  b\n4  c\n")).toEqual(["b", "c"]);
  expect(differences("1  a\n", "1  a\n")).toEqual([]);
});
