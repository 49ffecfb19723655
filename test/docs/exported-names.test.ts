// Every name that a package exports says what it is, in a comment of its own.

import { readFileSync } from "node:fs";
import { basename, join, relative } from "node:path";
import ts from "typescript-api";
import { describe, expect, test } from "vitest";
import { ROOT, workspacePackages } from "../../tools/packages/workspace.ts";

const CONDITION = "@readme-moe/source";

interface Manifest {
  readonly exports: Readonly<Record<string, Readonly<Record<string, string>> | string>>;
}

/** The source files that a package's users import from. */
function entriesOf(name: string): readonly string[] {
  const folder = join(ROOT, "packages", name);
  const { exports } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as Manifest;
  return Object.values(exports).flatMap((target) => {
    const source = typeof target === "string" ? undefined : target[CONDITION];
    return source === undefined ? [] : [join(folder, source)];
  });
}

const packages = workspacePackages().map(({ folder }) => ({
  name: basename(folder),
  entries: entriesOf(basename(folder)),
}));

const program = ts.createProgram({
  rootNames: packages.flatMap(({ entries }) => entries),
  options: {
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
    target: ts.ScriptTarget.ES2023,
    customConditions: [CONDITION],
    allowImportingTsExtensions: true,
    noEmit: true,
    skipLibCheck: true,
    types: ["node"],
  },
});
const checker = program.getTypeChecker();

/** `path: name` of everything that an entry exports, by what says what it is. */
function exportedBy(entry: string): readonly { readonly name: string; readonly isExplained: boolean }[] {
  const file = program.getSourceFile(entry);
  const module = file && checker.getSymbolAtLocation(file);
  if (!module) throw new Error(`${entry}: is no module`);
  return checker.getExportsOfModule(module).flatMap((exported) => {
    const symbol = exported.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(exported) : exported;
    const [declaration] = symbol.declarations ?? [];
    const path = declaration?.getSourceFile().fileName ?? entry;
    // What a host exports, and an entry point hands on, is the host's to explain.
    if (path.includes("node_modules")) return [];
    return [{ name: `${relative(ROOT, path)}: ${exported.name}`, isExplained: isExplained(symbol) }];
  });
}

/** A module that is exported as one name is explained by the comment that its file opens with. */
function isExplained(symbol: ts.Symbol): boolean {
  const [declaration] = symbol.declarations ?? [];
  if (declaration && ts.isSourceFile(declaration)) return /^\s*(?:\/\/|\/\*)/.test(declaration.text);
  return ts.displayPartsToString(symbol.getDocumentationComment(checker)).trim() !== "" || tagsOf(symbol) !== "";
}

function tagsOf(symbol: ts.Symbol): string {
  return symbol
    .getJsDocTags(checker)
    .filter(({ name }) => name === "returns" || name === "throws" || name === "param")
    .map(({ text }) => ts.displayPartsToString(text))
    .join("");
}

describe.each(packages)("$name", ({ entries }) => {
  test("has entry points with names", () => {
    expect(entries.flatMap((entry) => exportedBy(entry)).length).toBeGreaterThan(0);
  });

  test("every exported name has a docstring", () => {
    const silent = entries.flatMap((entry) => exportedBy(entry).filter(({ isExplained: is }) => !is));
    expect([...new Set(silent.map(({ name }) => name))]).toEqual([]);
  });
});
