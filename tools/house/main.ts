// Prints the counts of each package's sources. With names of lists, such as `casts`, prints the places as well:
// npm run counts -- casts packages/core

import { join, relative } from "node:path";
import { countSources, sourceFiles, type SourceCounts } from "./source-counts.ts";
import { LAB, ROOT, workspacePackages } from "../packages/workspace.ts";

const LISTS = ["manyParameters", "casts", "nonNull", "danglingComments", "wideComments"] as const;

const asked = process.argv.slice(2);
const folders = asked.filter((argument) => argument.includes("/"));
const lists = LISTS.filter((list) => asked.includes(list));

const rowOf = (name: string, counts: SourceCounts): object => ({
  package: name,
  files: counts.files,
  lines: counts.lines,
  tiny: counts.tinyFiles,
  "parameters > 4": counts.manyParameters.length,
  casts: counts.casts.length,
  "!": counts.nonNull.length,
  dangling: counts.danglingComments.length,
  wide: counts.wideComments.length,
  circles: counts.circles.length,
});

const names =
  folders.length > 0 ? folders : workspacePackages().map(({ folder }) => join(relative(ROOT, folder), "src"));
const all = names.map((name) => [name, countSources(ROOT, sourceFiles(join(ROOT, name)))] as const);
const isOfLab = (name: string): boolean => LAB.some((folder) => name.startsWith(`packages/${folder}/`));
const together = (name: string, of: readonly string[]): object =>
  rowOf(
    name,
    countSources(
      ROOT,
      of.flatMap((folder) => sourceFiles(join(ROOT, folder))),
    ),
  );
console.table([
  ...all.map(([name, counts]) => rowOf(name, counts)),
  together(
    "runtime",
    names.filter((name) => !isOfLab(name)),
  ),
  together("lab", names.filter(isOfLab)),
  together("all", names),
]);
for (const [, counts] of all) {
  for (const list of lists)
    for (const { file, line, text } of counts[list]) console.log(`${list} ${file}:${line} ${text}`);
  for (const circle of counts.circles) console.log(`circle: ${circle.join(" ")}`);
}
