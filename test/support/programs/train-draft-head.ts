// Trains a small draft head for a few steps and sends a message for each file of states and each step. Arguments: the
// model, the output folder, and `resume` to resume.

import { openModel } from "@readme-moe/model";
import { trainDraftHead } from "@readme-moe/refactor";
import { pocketTexts } from "../pocket-texts.ts";
import { TINY_HEAD } from "../tiny-tuning.ts";

const [modelPath = "", out = "", resume] = process.argv.slice(2);
const model = await openModel(modelPath);
await trainDraftHead(model, await pocketTexts(["book", "github"]), out, {
  ...TINY_HEAD,
  source: "model",
  threads: 1,
  checkpointMs: 0,
  resume: resume === "resume",
  onProgress: (progress) => process.send?.(progress.stage === "states" ? progress.done : `step ${progress.step}`),
});
await model.close();
process.disconnect();
