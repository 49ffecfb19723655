// Writes a GGUF file of a larger model's shape with random weights, for `npm run bench -- file` and other commands.
//
//   npm run bench:random-file -- llama-3.1-8b FILE.gguf

import { FILE_SHAPES, writeRandomFile } from "./file/random-file.ts";

const [name = "", path] = process.argv.slice(2);
const shape = Object.entries(FILE_SHAPES).find(([own]) => own === name)?.[1];
if (shape === undefined || path === undefined) {
  throw new TypeError(`Expected one of ${Object.keys(FILE_SHAPES).join(", ")} and a path, got \`${name}\``);
}
await writeRandomFile(shape, path);
