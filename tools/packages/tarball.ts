// Reads and checks the contents of a package's tarball.

import { posix } from "node:path";
import { gunzipSync } from "node:zlib";
import type { Manifest } from "./workspace.ts";

const BLOCK_BYTES = 512;
const FOLDER = "package/";

/** Reads the plain files of a ustar archive by path, without their common folder. */
export function readTarball(packed: Uint8Array): ReadonlyMap<string, Buffer> {
  const archive = gunzipSync(packed);
  const files = new Map<string, Buffer>();
  for (let at = 0; at + BLOCK_BYTES <= archive.length;) {
    const text = (from: number, length: number): string =>
      archive.toString("utf8", at + from, at + from + length).replace(/\0.*$/s, "");
    const name = text(0, 100);
    if (name === "") break;
    const prefix = text(345, 155);
    const bytes = Number.parseInt(text(124, 12), 8);
    const kind = text(156, 1);
    const content = archive.subarray(at + BLOCK_BYTES, at + BLOCK_BYTES + bytes);
    const path = prefix === "" ? name : `${prefix}/${name}`;
    if (kind === "0" || kind === "") files.set(path.replace(FOLDER, ""), content);
    at += BLOCK_BYTES * (1 + Math.ceil(bytes / BLOCK_BYTES));
  }
  return files;
}

/** Lists the problems of these files for users. */
export function contentProblems(files: ReadonlyMap<string, Buffer>): readonly string[] {
  const manifest = JSON.parse(files.get("package.json")?.toString() ?? "{}") as Manifest;
  const missing = ["LICENSE", "README.md", ...entryFiles(manifest)].filter((path) => !files.has(path));
  const surplus = [...files.keys()].filter(
    (path) => !/^dist\/.*\.(?:js|d\.ts)$|^prebuilt\/.*\.(?:node|wasm|sha256)$|^[^/]+$/.test(path),
  );
  return [
    ...missing.map((path) => `${path}: is missing`),
    ...surplus.map((path) => `${path}: should not be there`),
    ...(JSON.stringify(manifest).includes("workspace:") ? ["package.json: asks for packages of the workspace"] : []),
    ...(JSON.stringify(manifest.exports).includes("/src/") ? ["package.json: exports sources"] : []),
    ...[...files].flatMap(([path, content]) => brokenImports(path, content.toString(), files)),
  ];
}

function entryFiles({ exports, bin = {} }: Manifest): readonly string[] {
  const targets = [...Object.values(exports).flatMap((conditions) => Object.values(conditions)), ...Object.values(bin)];
  return [...new Set(targets.map((target) => posix.normalize(target)))];
}

/** Lists the modules that a file imports by path and that are missing in the package. */
function brokenImports(path: string, text: string, files: ReadonlyMap<string, Buffer>): readonly string[] {
  if (!/\.(?:js|d\.ts)$/.test(path)) return [];
  const isTypes = path.endsWith(".d.ts");
  return [...text.matchAll(/(?:\bfrom|\bimport)\s*\(?\s*"(\.{1,2}\/[^"]+)"/g)].flatMap(([, specifier = ""]) => {
    const target = posix.join(posix.dirname(path), specifier);
    const wanted = isTypes ? target.replace(/(?:\.js|\.ts)$/, ".d.ts") : target;
    return files.has(wanted) ? [] : [`${path}: imports ${specifier}, which is not there`];
  });
}
