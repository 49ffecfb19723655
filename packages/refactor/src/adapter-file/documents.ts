// A Read-ME model's report and card, which go along in its adapter file.

import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { gunzipSync, gzipSync } from "node:zlib";
import { readTextFile } from "@readme-moe/model";

const MAX_DOCUMENT_BYTES = 16 << 20;
const NAMES = ["README.md", "report.json"] as const;
// A file chooses names of files that are written: these and no others.
const ALLOWED_NAME = /^(README\.md|report\.json|pictures\/[a-z\d-]{1,64}\.svg)$/;

/** Texts by name. */
export type Documents = Readonly<Record<string, string>>;

/** @param folder - of a Read-ME model */
export async function readDocuments(folder: string): Promise<Documents> {
  const pictures: string[] = await readdir(join(folder, "pictures")).catch(() => []);
  const names = [...NAMES, ...pictures.toSorted((a, b) => (a < b ? -1 : 1)).map((name) => `pictures/${name}`)];
  const documents: Record<string, string> = {};
  for (const name of names.filter((one) => ALLOWED_NAME.test(one))) {
    const text = await readTextFile(join(folder, name), MAX_DOCUMENT_BYTES);
    if (text !== undefined) documents[name] = text;
  }
  return documents;
}

export function packDocuments(documents: Documents): Uint8Array {
  return new Uint8Array(gzipSync(JSON.stringify(documents), { level: 9 }));
}

/** @returns `undefined` where `bytes` are not what `packDocuments` made */
export function unpackDocuments(bytes: Uint8Array): Documents | undefined {
  try {
    const json: unknown = JSON.parse(gunzipSync(bytes, { maxOutputLength: 4 * MAX_DOCUMENT_BYTES }).toString("utf8"));
    if (typeof json !== "object" || json === null || Array.isArray(json)) return undefined;
    const isSound = Object.entries(json).every(([name, text]) => ALLOWED_NAME.test(name) && typeof text === "string");
    return isSound ? (json as Documents) : undefined;
  } catch {
    return undefined;
  }
}
