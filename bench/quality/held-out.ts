// Documents that a refactoring holds out.

import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { writeFileAtomically } from "@readme-moe/model";
import { dataFiles } from "../kit/suite.ts";
import { readDocuments } from "../../packages/readme-moe/src/data-files.ts";

/** Selects the documents that `refactor` holds out: every twelfth, beginning with index 11. */
const [EVERY, INDEX] = [12, 11];

export function heldOut<Document>(documents: readonly Document[]): readonly Document[] {
  const own = documents.filter((_, index) => index % EVERY === INDEX);
  return own.length > 0 ? own : documents.slice(-1);
}

/** Writes the held-out documents of each file into a folder. @returns the files */
export async function heldOutFiles(paths: readonly string[], folder: string): Promise<readonly string[]> {
  await mkdir(folder, { recursive: true });
  const files: string[] = [];
  for (const { name, path } of await dataFiles(paths)) {
    const texts = heldOut(await readDocuments(path)).map(({ text }) => `${JSON.stringify({ text })}\n`);
    const file = join(folder, `${name}.jsonl`);
    await writeFileAtomically(file, texts.join(""));
    files.push(file);
  }
  return files;
}
