// `npm start`, with little of everything. Arguments: the folder of the experts, the model that talks (with a set of
// loras after "+"), and then those of `npm start`.

import { firstMinute } from "../../../examples/first-minute.ts";
import { runProgram } from "../../../examples/run-program.ts";

const LITTLE = [
  "--method=select",
  "--no-baselines",
  "--calibration-tokens=512",
  "--router-tokens=512",
  "--router-steps=2",
  "--evaluation-sequences=1",
];
const [folder, talking = "", ...args] = process.argv.slice(2);
const [name, experts] = talking.split("+");
const options = { folder, domains: ["book", "github"], effort: LITTLE, talking: { name, experts } };
await runProgram(() => firstMinute(args, options));
