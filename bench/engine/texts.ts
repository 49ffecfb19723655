import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";

/** The documents of each file: of `.jsonl` the field `text` of each line, of any other its whole text. */
export async function readTexts(files: readonly string[], root: string): Promise<readonly (readonly string[])[]> {
  const paths = files.length > 0 ? files : await ownTexts(root);
  return Promise.all(
    paths.map(async (path) => {
      const text = await readFile(path, "utf8");
      if (!path.endsWith(".jsonl")) return [text];
      const lines = text.split("\n").filter((line) => line.trim() !== "");
      return lines.map((line) => (JSON.parse(line) as { text: string }).text);
    }),
  );
}

/** Enough English for prompts, and for a loss that is comparable within one run. */
async function ownTexts(root: string): Promise<readonly string[]> {
  const docs = await readdir(join(root, "docs"));
  const pages = docs.filter((name) => name.endsWith(".md")).toSorted();
  return [join(root, "LICENSE"), join(root, "README.md"), ...pages.map((name) => join(root, "docs", name))];
}
