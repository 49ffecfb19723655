// Prints which modules of Express an entry of the middleware loads. @param the entry, as an argument

import { createRequire } from "node:module";

const entry = process.argv[2] ?? "";
await import(entry);
const loaded = Object.keys(createRequire(import.meta.url).cache);
console.log(
  JSON.stringify(loaded.filter((path) => /[\\/]node_modules[\\/](express|body-parser|router)[\\/]/.test(path))),
);
