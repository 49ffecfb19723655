import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { ROOT } from "./markdown.ts";

/** Texts of all TypeScript sources of a folder of the repository. */
export async function sourcesOf(folder: string): Promise<readonly string[]> {
  const names = await readdir(join(ROOT, folder), { recursive: true });
  const isSource = (name: string): boolean =>
    /(^|\/)src\/.*\.ts$/.test(join(folder, name)) && !/node_modules/.test(name);
  return Promise.all(names.filter(isSource).map((name) => readFile(join(ROOT, folder, name), "utf8")));
}
