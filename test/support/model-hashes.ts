import { createHash } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";

/** Hashes of a model folder's files by name, but for those that say how long it took. */
export async function modelHashes(folder: string): Promise<Record<string, string>> {
  const names = (await readdir(folder, { recursive: true })).filter((name) => /\.(safetensors|json)$/.test(name));
  const hashes: Record<string, string> = {};
  for (const name of names.toSorted()) {
    if (name === "report.json") continue;
    const content = await readFile(join(folder, name));
    hashes[name] = createHash("sha256").update(content).digest("hex");
  }
  return hashes;
}
