// The program of `npm run example <name>`: runs one of the folders beside this file.

import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";

const EXPERTS = "models/pocket-experts";

const names = readdirSync(import.meta.dirname).filter((name) => existsSync(join(import.meta.dirname, name, "main.ts")));
const [, , name = "", ...args] = process.argv;

if (!names.includes(name)) fail(`Usage: npm run example <name> [-- arguments]\nExamples: ${names.join(", ")}`);
// `drop-in` needs the dense model only, the others make their experts themselves.
if (
  args.length === 0 &&
  !["drop-in", "chatbot", "experts-by-customer", "retrieval"].includes(name) &&
  !existsSync(EXPERTS)
) {
  fail(`${EXPERTS} does not exist yet: \`npm start -- --pocket\` makes it in half a minute. Or name another model.`);
}
process.argv.splice(2, 1);
await import(`./${name}/main.ts`);

function fail(message: string): never {
  console.error(message);
  process.exit(2);
}
