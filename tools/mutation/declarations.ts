// Draws functions, methods and other declarations of source files, to mutate a part of a large package.

import { readFileSync } from "node:fs";
import ts from "typescript-api";

/** Returns the ranges `path:line:column-line:column` of the declarations drawn from a file, each with probability `share`. */
export function drawDeclarations(path: string, share: number, random: () => number): readonly string[] {
  const source = ts.createSourceFile(path, readFileSync(path, "utf8"), ts.ScriptTarget.Latest, true);
  const declarations = source.statements.flatMap((statement): readonly ts.Node[] =>
    ts.isClassDeclaration(statement) ? statement.members : [statement],
  );
  return declarations
    .filter(() => random() < share)
    .map((node) => {
      const start = source.getLineAndCharacterOfPosition(node.getStart());
      const end = source.getLineAndCharacterOfPosition(node.end);
      return `${path}:${start.line + 1}:${start.character}-${end.line + 1}:${end.character}`;
    });
}
