import { readdir, stat } from "node:fs/promises";
import { basename, join } from "node:path";

/** A file of texts, and what it is called in tables. */
export interface DataFile {
  /** Without folder and extension: of a folder's files, the domain. */
  readonly name: string;
  readonly path: string;
}

/** What `--data` names: files as they are, of folders each `.jsonl` or `.jsonl.gz` file. */
export async function dataFiles(paths: readonly string[]): Promise<readonly DataFile[]> {
  const files = await Promise.all(
    paths.map(async (path) => {
      if (!(await stat(path)).isDirectory()) return [path];
      const names = (await readdir(path)).filter((name) => /\.jsonl(\.gz)?$/.test(name)).toSorted();
      if (names.length > 0) return names.map((name) => join(path, name));
      throw new RangeError(`Expected \`--data\` to name files, or folders with .jsonl files, got \`${path}\``);
    }),
  );
  return files.flat().map((path) => ({ name: basename(path).replace(/(\.[^.]*)?(\.gz)?$/, ""), path }));
}
