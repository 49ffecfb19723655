// Counts what makes source files hard to read. Uses the TypeScript parser only, no types.

import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, sep } from "node:path";
import ts from "typescript-api";

/** A place in a source file. */
interface Place {
  /** Path from the project's root, with forward slashes. */
  readonly file: string;
  readonly line: number;
  readonly text: string;
}

export interface SourceCounts {
  readonly files: number;
  readonly lines: number;
  /** Files of at most ten lines. */
  readonly tinyFiles: number;
  /** Functions, methods, constructors and function types that take more than four parameters by position. */
  readonly manyParameters: readonly Place[];
  /** Type assertions, `as const` left out. */
  readonly casts: readonly Place[];
  /** Assertions `!` that a value is neither `null` nor `undefined`. */
  readonly nonNull: readonly Place[];
  /** Comments that begin with a preposition, a pronoun or a relative word instead of a verb or a noun. */
  readonly danglingComments: readonly Place[];
  /** Comment lines that are wider than the code. */
  readonly wideComments: readonly Place[];
  /** Groups of files that import one another, directly or through others. */
  readonly circles: readonly (readonly string[])[];
}

/** Width of a line of code, in characters; `.oxfmtrc.json` has the same number. */
const LINE_WIDTH = 120;

const MAX_PARAMETERS = 4;
const DANGLING =
  /^(Of|That|Who|Whom|Whose|What|Where|Which|How|When|If|As|In|On|For|From|To|With|Without|By|At|So|It|They|He|Those|These|This|There|Not|Because|Since|Until|After|Before|While)\b/;

/** Lists the TypeScript sources below `folder`, sorted. */
export function sourceFiles(folder: string): readonly string[] {
  return readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".ts") && !/(^|[/\\])(dist|node_modules)[/\\]/.test(name))
    .map((name) => join(folder, name))
    .toSorted();
}

/** Counts over the files `paths`; `root` is the folder that reported paths are relative to. */
export function countSources(root: string, paths: readonly string[]): SourceCounts {
  const all = paths.map((path) => parse(root, path));
  return {
    files: all.length,
    lines: all.reduce((sum, { lines }) => sum + lines.length, 0),
    tinyFiles: all.filter(({ lines }) => lines.length <= 10).length,
    manyParameters: all.flatMap(manyParametersOf),
    casts: all.flatMap(castsOf),
    nonNull: all.flatMap(nonNullOf),
    danglingComments: all.flatMap(danglingCommentsOf),
    wideComments: all.flatMap(wideCommentsOf),
    circles: circlesOf(new Map(all.map(({ name, imports }) => [name, imports]))),
  };
}

interface Parsed {
  readonly name: string;
  readonly source: ts.SourceFile;
  readonly lines: readonly string[];
  readonly imports: readonly string[];
}

function parse(root: string, path: string): Parsed {
  const text = readFileSync(path, "utf8");
  const source = ts.createSourceFile(path, text, ts.ScriptTarget.Latest, true);
  const nameOf = (file: string): string => relative(root, file).split(sep).join("/");
  const imports = source.statements.flatMap((statement) => {
    if (!ts.isImportDeclaration(statement) && !ts.isExportDeclaration(statement)) return [];
    const specifier = statement.moduleSpecifier;
    if (!specifier || !ts.isStringLiteral(specifier) || !specifier.text.startsWith(".")) return [];
    return [nameOf(join(dirname(path), specifier.text))];
  });
  return { name: nameOf(path), source, lines: text.trimEnd().split("\n"), imports };
}

function placeOf({ name, source }: Parsed, position: number, text: string): Place {
  return { file: name, line: source.getLineAndCharacterOfPosition(position).line + 1, text: text.slice(0, 100) };
}

function nodesOf(source: ts.SourceFile): ts.Node[] {
  const nodes: ts.Node[] = [];
  const visit = (node: ts.Node): void => {
    nodes.push(node);
    ts.forEachChild(node, visit);
  };
  visit(source);
  return nodes;
}

function manyParametersOf(parsed: Parsed): Place[] {
  return nodesOf(parsed.source)
    .filter((node): node is ts.SignatureDeclaration => ts.isFunctionLike(node))
    .filter((node) => node.parameters.filter(({ name }) => name.getText() !== "this").length > MAX_PARAMETERS)
    .map((node) => placeOf(parsed, node.getStart(), `${node.name?.getText() ?? "(…)"}: ${node.parameters.length}`));
}

function castsOf(parsed: Parsed): Place[] {
  return nodesOf(parsed.source)
    .filter((node) => ts.isAsExpression(node) && node.type.getText() !== "const")
    .map((node) => placeOf(parsed, node.getStart(), node.getText()));
}

function nonNullOf(parsed: Parsed): Place[] {
  return nodesOf(parsed.source)
    .filter((node) => ts.isNonNullExpression(node))
    .map((node) => placeOf(parsed, node.getStart(), node.getText()));
}

function commentsOf(source: ts.SourceFile): readonly { position: number; text: string }[] {
  const starts = new Set<number>();
  const comments: { position: number; text: string }[] = [];
  for (const node of nodesOf(source)) {
    for (const { pos, end } of ts.getLeadingCommentRanges(source.text, node.pos) ?? []) {
      if (starts.has(pos)) continue;
      starts.add(pos);
      comments.push({ position: pos, text: source.text.slice(pos, end) });
    }
  }
  return comments.toSorted((a, b) => a.position - b.position);
}

function danglingCommentsOf(parsed: Parsed): Place[] {
  let previousLine = -1;
  return commentsOf(parsed.source).flatMap(({ position, text }) => {
    const { line } = parsed.source.getLineAndCharacterOfPosition(position);
    const isContinued = text.startsWith("//") && line === previousLine + 1;
    previousLine = text.startsWith("//") ? line : -1;
    const said = text.replace(/^\/\*+\s*\*?\s*|^\/\/\s*/, "");
    // A line comment may begin with a reason, such as "If …"; a docstring says what a thing is.
    const isDangling = text.startsWith("/**") ? DANGLING.test(said) : /^(Of|That|Who|Whom|Whose)\b/.test(said);
    return isDangling && !isContinued ? [placeOf(parsed, position, said.split("\n")[0] ?? "")] : [];
  });
}

function wideCommentsOf(parsed: Parsed): Place[] {
  return commentsOf(parsed.source).flatMap(({ position, text }) => {
    const first = parsed.source.getLineAndCharacterOfPosition(position).line;
    return text.split("\n").flatMap((_, index) => {
      const whole = parsed.lines[first + index] ?? "";
      return whole.length > LINE_WIDTH
        ? [{ file: parsed.name, line: first + index + 1, text: whole.slice(0, 100) }]
        : [];
    });
  });
}

/** Finds the strongly connected components of more than one file (Tarjan's algorithm). */
export function circlesOf(imports: ReadonlyMap<string, readonly string[]>): string[][] {
  const order = new Map<string, number>();
  const lowest = new Map<string, number>();
  const stack: string[] = [];
  const circles: string[][] = [];
  const visit = (file: string): number => {
    order.set(file, order.size);
    let low = order.get(file) ?? 0;
    stack.push(file);
    for (const target of imports.get(file) ?? []) {
      if (!imports.has(target)) continue;
      if (!order.has(target)) low = Math.min(low, visit(target));
      else if (stack.includes(target)) low = Math.min(low, order.get(target) ?? 0);
    }
    lowest.set(file, low);
    if (low === order.get(file)) {
      const circle = stack.splice(stack.indexOf(file));
      if (circle.length > 1 || imports.get(file)?.includes(file)) circles.push(circle.toSorted());
    }
    return low;
  };
  for (const file of imports.keys()) if (!order.has(file)) visit(file);
  return circles;
}
