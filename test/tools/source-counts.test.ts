// The counts of sources, which test/architecture.test.ts relies on.

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { seededRandom } from "@readme-moe/core";
import { circlesOf, countSources, type SourceCounts } from "../../tools/house/source-counts.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

describe("circlesOf", () => {
  test("finds the groups of files that reach one another, as a search from every file does", () => {
    const random = seededRandom(7);
    for (let round = 0; round < 300; round++) {
      const names = Array.from({ length: 1 + Math.floor(random() * 8) }, (_, index) => `file-${index}`);
      const share = random() * 0.4;
      const imports = new Map(names.map((name) => [name, names.filter(() => random() < share)]));
      expect(circlesOf(imports).map(String).toSorted()).toEqual(circlesBySearch(imports).map(String).toSorted());
    }
  });

  test("ignores imports of files that it does not know", () => {
    expect(circlesOf(new Map([["a", ["b"]]]))).toEqual([]);
  });
});

/** Groups the files that can be reached from themselves by the set of files that they reach and are reached from. */
function circlesBySearch(imports: ReadonlyMap<string, readonly string[]>): string[][] {
  const reachedFrom = (start: string): Set<string> => {
    const reached = new Set<string>();
    const open = [...(imports.get(start) ?? [])];
    for (let next = open.pop(); next !== undefined; next = open.pop()) {
      if (reached.has(next)) continue;
      reached.add(next);
      open.push(...(imports.get(next) ?? []));
    }
    return reached;
  };
  const reached = new Map([...imports.keys()].map((name) => [name, reachedFrom(name)]));
  const groups = [...imports.keys()]
    .filter((name) => reached.get(name)?.has(name))
    .map((name) =>
      [...imports.keys()].filter((other) => reached.get(name)?.has(other) && reached.get(other)?.has(name)),
    );
  return [...new Map(groups.map((group) => [String(group), group])).values()];
}

async function countsOf(source: string): Promise<SourceCounts> {
  const folder = await temporaryFolder();
  const path = join(folder, "source.ts");
  writeFileSync(path, source);
  return countSources(folder, [path]);
}

describe("countSources", () => {
  test("counts parameters of functions, methods, constructors and function types, but not `this`", async () => {
    const { manyParameters } = await countsOf(
      [
        "function four(this: object, a: number, b: number, c: number, d: number): void {}",
        "function five(a: number, b: number, c: number, d: number, e: number): void {}",
        "class One { constructor(a: number, b: number, c: number, d: number, e: number) {} }",
        "type Many = (a: number, b: number, c: number, d: number, e: number) => void;",
      ].join("\n"),
    );
    expect(manyParameters.map(({ line }) => line)).toEqual([2, 3, 4]);
  });

  test("counts casts, but not `as const`", async () => {
    expect((await countsOf('const a = "b" as const;\nconst c = a as string;')).casts).toMatchObject([{ line: 2 }]);
  });

  test("finds docstrings that begin with a preposition or a relative word", async () => {
    const source = [
      "/** Of a sequence. */",
      "const a = 1;",
      "/** Number of sequences. */",
      "const b = 1;",
      "/**",
      " * That the step may take.",
      " */",
      "const c = 1;",
      "// Of course not, ",
      "// Of two lines the first counts",
      "const d = 1;",
    ].join("\n");
    expect((await countsOf(source)).danglingComments.map(({ line }) => line)).toEqual([1, 5, 9]);
  });

  test("finds comment lines that are wider than the code", async () => {
    const wide = `// ${"word ".repeat(30)}`;
    expect((await countsOf(`${wide}\nconst a = 1;`)).wideComments).toMatchObject([{ line: 1 }]);
  });
});
