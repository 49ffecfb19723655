// A refactoring on machines. Arguments: the model, the output folder, the fleet's URL, the folder of artefacts,
// and `resume` to resume.

import { FlowCoordinator } from "@readme-moe/fleet";
import { openModel } from "@readme-moe/model";
import { openArtefacts, refactor } from "@readme-moe/refactor";
import { pocketTexts, SHARDED } from "../pocket-texts.ts";

const [path = "", out = "", fleet = "", place = "", resume] = process.argv.slice(2);
const artefacts = await openArtefacts(place);
const coordinator = await FlowCoordinator.open({ fleet, pollMs: 20 });
const model = await openModel(path);
await refactor(model, await pocketTexts(), out, {
  ...SHARDED,
  source: "pocket",
  resume: resume === "resume",
  fleet: { artefacts, run: (flow) => coordinator.run(flow) },
  onProgress: ({ stage, done, of }) => process.send?.(`${stage} ${done}/${of}`),
});
await model.close();
await coordinator.close();
process.disconnect();
