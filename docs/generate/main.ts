// `npm run docs`: writes what pages of docs/reference say about the code, and the pictures that are simulated. With
// `--pictures`, also those of the pocket model's experts, which `npm start` makes.

import { copyFile, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { replaceRegion } from "./markdown.ts";
import { drawSimulation, POCKET_PICTURES, SIMULATION } from "./pictures.ts";
import { ROOT } from "./read-members.ts";
import { REGIONS } from "./regions.ts";

for (const { page, name, make } of REGIONS) {
  const path = join(ROOT, "docs", "reference", page);
  await writeFile(path, replaceRegion(await readFile(path, "utf8"), name, await make()));
}
await drawSimulation(join(ROOT, SIMULATION));
if (process.argv.includes("--pictures")) {
  for (const [name, picture] of Object.entries(POCKET_PICTURES)) {
    await copyFile(join(ROOT, "models", "pocket-experts", "pictures", name), join(ROOT, picture));
  }
}
