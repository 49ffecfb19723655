// Preloaded into a program: counts what it does to files of a folder, and kills it before one of these.
// `KILL_FOLDER` is the folder; `KILL_AT` the number of the step, from 1 up, or 0 to tell the count at the end.

import { writeSync } from "node:fs";
import files from "node:fs/promises";
import { syncBuiltinESMExports } from "node:module";
import { resolve } from "node:path";

const folder = process.env.KILL_FOLDER ?? "";
const killAt = Number(process.env.KILL_AT ?? 0);
let numSteps = 0;

function step() {
  numSteps++;
  if (numSteps === killAt) process.kill(process.pid, "SIGKILL");
}

const isInside = (path) => typeof path === "string" && resolve(path).startsWith(folder);

for (const name of ["mkdir", "rename", "writeFile", "copyFile", "cp", "rm"]) {
  const original = files[name];
  files[name] = (...args) => {
    if (args.slice(0, 2).some(isInside)) step();
    return original(...args);
  };
}

const { open } = files;
files.open = async (path, ...rest) => {
  const [flags = "r"] = rest;
  if (!isInside(path) || flags === "r") return open(path, ...rest);
  step();
  const handle = await open(path, ...rest);
  for (const name of ["write", "writev", "writeFile", "sync", "datasync", "close"]) {
    const original = handle[name].bind(handle);
    handle[name] = (...args) => {
      step();
      return original(...args);
    };
  }
  return handle;
};
syncBuiltinESMExports();

if (killAt === 0) process.on("exit", () => writeSync(2, `steps: ${numSteps}\n`));
