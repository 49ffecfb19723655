// A process that is killed while it builds the pocket model's graph: nothing of it runs after that.
//
//   killed-builder.ts <cache folder> <share of the weights that is written by then>

import { KernelRunner } from "@readme-moe/engine";
import { openModel } from "@readme-moe/model";
import { POCKET } from "../pocket.ts";

const [cacheFolder = "", share] = process.argv.slice(2);
await KernelRunner.open(await openModel(POCKET), {
  cacheFolder,
  onProgress: ({ stage, doneBytes, ofBytes }) => {
    if (stage === "building" && doneBytes >= Number(share) * ofBytes) process.kill(process.pid, "SIGKILL");
  },
});
