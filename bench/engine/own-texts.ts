import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { readDocuments } from "../../packages/readme-moe/src/data-files.ts";
import { dataFiles } from "../kit/suite.ts";

/** Lists this repository's texts, which are enough English for prompts and for losses comparable within one run. */
export async function ownTexts(): Promise<readonly string[]> {
  const root = join(import.meta.dirname, "..", "..");
  const docs = await readdir(join(root, "docs"));
  const pages = docs.filter((name) => name.endsWith(".md")).toSorted();
  return [join(root, "LICENSE"), join(root, "README.md"), ...pages.map((name) => join(root, "docs", name))];
}

/** Reads the documents of each file of `--data`. */
export async function documentsOf(paths: readonly string[]): Promise<readonly (readonly string[])[]> {
  const files = await dataFiles(paths);
  return Promise.all(files.map(async ({ path }) => (await readDocuments(path)).map(({ text }) => text)));
}
