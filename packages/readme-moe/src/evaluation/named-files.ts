import { basename, extname } from "node:path";

/** Files by their name without folder and extension; whole paths where two would be called the same. */
export function nameFiles(files: readonly string[]): ReadonlyMap<string, string> {
  const named = new Map<string, string>();
  for (const file of files) {
    const name = shortName(file);
    const isAmbiguous = files.some((other) => other !== file && shortName(other) === name);
    named.set(isAmbiguous ? file : name, file);
  }
  return named;
}

function shortName(file: string): string {
  const name = basename(file, ".gz");
  return basename(name, extname(name));
}
