// Finds tests that assert nothing. Uses the TypeScript parser only, no types.

import { readFileSync } from "node:fs";
import { relative, sep } from "node:path";
import ts from "typescript-api";

/** Names of assertions: those of Vitest and Node, and of helpers that other files export. */
const ASSERTS = /^(expect|assert)/;

/**
 * Lists the tests of files that neither assert nor call a function of their file that does.
 *
 * @returns names of files from the project's root, with the lines
 */
export function testsWithoutAssertion(root: string, files: readonly string[]): readonly string[] {
  return files.flatMap((file) => {
    const source = ts.createSourceFile(file, readFileSync(file, "utf8"), ts.ScriptTarget.Latest, true);
    const name = relative(root, file).split(sep).join("/");
    const lineOf = (node: ts.Node): number => source.getLineAndCharacterOfPosition(node.getStart()).line + 1;
    return emptyTestsOf(source).map((node) => `${name}:${lineOf(node)}`);
  });
}

function emptyTestsOf(source: ts.SourceFile): readonly ts.Node[] {
  const [named, tests] = [new Map<string, ts.Node>(), [] as ts.Node[]];
  each(source, (node) => {
    if (ts.isFunctionDeclaration(node) && node.name) named.set(node.name.text, node);
    if (ts.isVariableDeclaration(node) && ts.isIdentifier(node.name) && node.initializer) {
      named.set(node.name.text, node.initializer);
    }
    if ((ts.isMethodDeclaration(node) || ts.isPropertyAssignment(node)) && ts.isIdentifier(node.name)) {
      named.set(node.name.text, node);
    }
    if (!ts.isCallExpression(node) || !/^(test|it)\b/.test(node.expression.getText(source))) return;
    const body = node.arguments.find((one) => ts.isArrowFunction(one) || ts.isFunctionExpression(one));
    if (body) tests.push(body);
  });
  return tests.filter((body) => !asserts(body, named, new Set()));
}

function asserts(node: ts.Node, named: ReadonlyMap<string, ts.Node>, seen: Set<string>): boolean {
  const names: string[] = [];
  each(node, (one) => {
    if (ts.isIdentifier(one)) names.push(one.text);
  });
  return names.some((name) => {
    if (ASSERTS.test(name)) return true;
    const own = named.get(name);
    if (!own || seen.has(name)) return false;
    seen.add(name);
    return asserts(own, named, seen);
  });
}

function each(node: ts.Node, visit: (node: ts.Node) => void): void {
  visit(node);
  ts.forEachChild(node, (child) => each(child, visit));
}
