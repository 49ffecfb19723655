// `npm run pack <folder>`: writes the tarballs that would be published.

import { mkdir } from "node:fs/promises";
import { resolve } from "node:path";
import { packAll } from "./pack.ts";

const [, , folder] = process.argv;
if (folder === undefined) {
  console.error("Usage: npm run pack <folder>");
  process.exit(2);
}
const target = resolve(folder);
await mkdir(target, { recursive: true });
for (const { tarball } of await packAll(target)) console.log(tarball);
