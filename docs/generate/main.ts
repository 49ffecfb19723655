// `npm run docs`: writes the generated regions of docs/reference and of CHANGELOG.md, and the pictures that are made from
// files. With `--pictures`, also copies the pictures of the pocket model's experts, which `npm start -- --pocket` makes.
// With `--release <version>`, the unreleased changes become those of a version.

import { copyFile, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { released } from "./changes.ts";
import { replaceRegion } from "./markdown.ts";
import { drawSimulation, POCKET_PICTURES, SIMULATION } from "./pictures.ts";
import { ROOT } from "./read-members.ts";
import { REGIONS } from "./regions.ts";
import { drawTuningCurves, TUNING_CURVES, TUNING_PICTURE } from "./tuning-curves.ts";

for (const { page, name, make } of REGIONS) {
  const path = join(ROOT, "docs", "reference", page);
  await writeFile(path, replaceRegion(await readFile(path, "utf8"), name, await make()));
}
await drawSimulation(join(ROOT, SIMULATION));
await drawTuningCurves(join(ROOT, TUNING_CURVES), join(ROOT, TUNING_PICTURE));
const [, version] = process.argv.slice(process.argv.indexOf("--release"));
if (process.argv.includes("--release") && version !== undefined) {
  const path = join(ROOT, "CHANGELOG.md");
  await writeFile(path, released(await readFile(path, "utf8"), version, new Date()));
}
if (process.argv.includes("--pictures")) {
  for (const [name, picture] of Object.entries(POCKET_PICTURES)) {
    await copyFile(join(ROOT, "models", "pocket-experts", "pictures", name), join(ROOT, picture));
  }
}
