#!/usr/bin/env node
// `npx readme-moe` in the repository: runs the sources, so that nothing has to be built. Published packages have dist/main.js here.

import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

const main = fileURLToPath(new URL("../src/main.ts", import.meta.url));
const program = ["--conditions=@readme-moe/source", "--import", import.meta.resolve("tsx"), main];
const child = spawn(process.execPath, [...program, ...process.argv.slice(2)], { stdio: "inherit" });

// A terminal sends Ctrl-C to both processes; a second one would end the child at once.
process.on("SIGINT", () => undefined);
for (const signal of ["SIGTERM", "SIGHUP"]) process.on(signal, () => child.kill(signal));
child.on("error", (error) => {
  console.error(error.message);
  process.exitCode = 1;
});
child.on("exit", (code, signal) => {
  if (signal === null) process.exitCode = code ?? 1;
  else {
    process.removeAllListeners(signal);
    process.kill(process.pid, signal);
  }
});
