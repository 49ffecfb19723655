// A machine of a refactoring or training. Arguments: the model, the fleet's URL, the folder of artefacts, after how many
// tasks the process kills itself (the result of the last one is stored, and nobody hears of it; 0 for never), and the
// number of threads.

import { FlowWorker } from "@readme-moe/fleet";
import { openModel } from "@readme-moe/model";
import { openArtefacts, RefactorWorker } from "@readme-moe/refactor";

const [path = "", fleet = "", place = "", killAfter = "0", threads = "1"] = process.argv.slice(2);
const abort = new AbortController();
const model = await openModel(path);
const artefacts = await openArtefacts(place);
const machine = await RefactorWorker.open(model, { artefacts, threads: Number(threads), signal: abort.signal });
let numTasks = 0;
// A run of tests that is killed leaves no machine behind.
process.once("disconnect", () => process.exit());
FlowWorker.open({
  fleet,
  machines: machine.machines,
  abort,
  lockTimes: { lockMs: 1000, stalledMs: 250 },
  run: async ({ plan, task }) => {
    numTasks++;
    await machine.run(plan, task);
    if (numTasks === Number(killAfter)) process.kill(process.pid, "SIGKILL");
  },
});
