// Generates the table of `ReadMeError` codes and their causes.

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
    // A comment applies to all codes up to the next comment.
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
  return table(["code", "meaning", ""], rows);
}
