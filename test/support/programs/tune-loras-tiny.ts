// Trains experts of low rank of a tiny model for a few steps and sends a message for each. Arguments: the model, the
// output folder, and `resume` to resume.

import { openModel } from "@readme-moe/model";
import { tuneLoras } from "@readme-moe/refactor";
import { pocketTexts } from "../pocket-texts.ts";
import { TINY_LORA } from "../tiny-tuning.ts";

const [modelPath = "", out = "", resume] = process.argv.slice(2);
const model = await openModel(modelPath);
await tuneLoras(model, await pocketTexts(["book", "github"]), out, {
  ...TINY_LORA,
  source: "model",
  threads: 1,
  checkpointMs: 0,
  resume: resume === "resume",
  onEstimate: () => process.send?.("estimate"),
  onProgress: ({ name, step }) => process.send?.(`${name} ${step}`),
});
await model.close();
process.disconnect();
