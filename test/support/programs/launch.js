// Runs a program of TypeScript that has no Node flags: the engine's workers, which inherit them, then start as they are
// published, without a compiler.
//
//   node launch.js <program> <its arguments>

import { pathToFileURL } from "node:url";
import { register } from "tsx/esm/api";

register();
process.argv.splice(1, 1);
await import(pathToFileURL(process.argv[1]).href);
