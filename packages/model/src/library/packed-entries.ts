import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import type { EntryName } from "../cache/model-index.ts";
import type { PackedEntry } from "./cached-model.ts";

/** Folders of the cache whose entries are made from models. */
const PACKED_KINDS = ["kernels", "experts"];

/** Names an entry as no other is. */
export function nameOf({ kind, key }: EntryName): string {
  return `${kind}/${key}`;
}

/** Measures the entries of packed data, by their names. */
export async function packedSizes(cacheFolder: string): Promise<ReadonlyMap<string, PackedEntry>> {
  const sizes = new Map<string, PackedEntry>();
  for (const kind of PACKED_KINDS) {
    for (const key of await readdir(join(cacheFolder, kind)).catch(() => [])) {
      if (!/^[0-9a-f]+$/.test(key)) continue;
      const folder = join(cacheFolder, kind, key);
      const names = await readdir(folder).catch(() => []);
      const files = await Promise.all(names.map((name) => stat(join(folder, name)).catch(() => undefined)));
      const bytes = files.reduce((sum, file) => sum + (file?.size ?? 0), 0);
      sizes.set(nameOf({ kind, key }), { kind, key, bytes });
    }
  }
  return sizes;
}
