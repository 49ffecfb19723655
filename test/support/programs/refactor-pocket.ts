// Refactors the pocket model with small options. Arguments: the output folder, and `resume` to resume.

import { refactor } from "@readme-moe/refactor";
import { openModel } from "@readme-moe/model";
import { POCKET } from "../pocket.ts";
import { LITTLE, pocketTexts } from "../pocket-texts.ts";

const [out = "", resume] = process.argv.slice(2);
const model = await openModel(POCKET);
await refactor(model, await pocketTexts(), out, {
  ...LITTLE,
  budget: 0.7,
  source: "pocket",
  threads: 1,
  checkpointMs: 0,
  resume: resume === "resume",
  onProgress: ({ stage, done, of }) => process.send?.(`${stage} ${done}/${of}`),
});
await model.close();
process.disconnect();
