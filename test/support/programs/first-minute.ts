// `npm start`, with little of everything. Arguments: the folder of the experts, the model that talks, and then those of
// `npm start`.

import { firstMinute } from "../../../examples/first-minute.ts";

const LITTLE = [
  "--method=select",
  "--no-baselines",
  "--calibration-tokens=512",
  "--router-tokens=512",
  "--router-steps=2",
  "--evaluation-sequences=1",
];
const [folder, name, ...args] = process.argv.slice(2);
await firstMinute(args, { folder, domains: ["book", "github"], effort: LITTLE, talking: { name } });
