// Packs the files of a folder into one compressed file: graphs of one model repeat each other's names.
// Usage: node --import tsx tools/onnx/pack.ts <folder> <file>

import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { brotliCompressSync, constants } from "node:zlib";

const [folder = "", target = ""] = process.argv.slice(2);
const parts: Buffer[] = [];
for (const name of readdirSync(folder, { recursive: true, encoding: "utf8" }).toSorted()) {
  const path = join(folder, name);
  if (statSync(path).isDirectory()) continue;
  const content = readFileSync(path);
  // Lengths, then name and content.
  const head = Buffer.alloc(8);
  const bytes = Buffer.from(name.replaceAll("\\", "/"));
  head.writeUInt32LE(bytes.byteLength, 0);
  head.writeUInt32LE(content.byteLength, 4);
  parts.push(head, bytes, content);
}
const params = {
  [constants.BROTLI_PARAM_QUALITY]: 11,
  [constants.BROTLI_PARAM_LGWIN]: 24,
};
mkdirSync(dirname(target), { recursive: true });
writeFileSync(target, brotliCompressSync(Buffer.concat(parts), { params }));
