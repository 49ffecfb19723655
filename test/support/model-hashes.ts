import { createHash } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";

/** Returns hashes of a model folder's files by name, without report.json, which contains times. */
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
