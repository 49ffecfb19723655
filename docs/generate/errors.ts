// Codes of `ReadMeError`, with their causes.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { anchorOf, code, table } from "./markdown.ts";
import { readComment, ROOT } from "./read-members.ts";

export interface ErrorCode {
  readonly name: string;
  readonly text: string;
}

export async function errorCodes(): Promise<readonly ErrorCode[]> {
  const source = await readFile(join(ROOT, "packages/core/src/errors.ts"), "utf8");
  let text = "";
  return [...source.matchAll(/(\/\*\*[\s\S]*?\*\/)|\| "(ERR_\w+)"/g)].flatMap(([, comment, name]) => {
    // A comment holds for all codes up to the next one.
    if (comment !== undefined) text = readComment(comment).text;
    return name === undefined ? [] : [{ name, text }];
  });
}

export async function errorTable(): Promise<string> {
  const rows = (await errorCodes()).map(({ name, text }) => [
    code(name),
    text,
    `[what to do](../how-to/troubleshoot.md#${anchorOf(name)})`,
  ]);
  return table(["code", "means", ""], rows);
}
