// A process with an engine: continues the pocket model's golden prompts, and prints a `Report`.
//
//   answer.ts <cache folder> <thread|process> [together]
//
// With `together` it says `ready` when it has started, and opens the engine when its standard input ends.

import { readdir } from "node:fs/promises";
import { ReadMeEngine } from "@readme-moe/engine";
import { complete } from "../complete.ts";
import { cases, greedy, POCKET, type Report } from "../pocket.ts";

const [cacheFolder = "", isolation, together] = process.argv.slice(2);
if (together !== undefined) {
  process.stdout.write("ready\n");
  for await (const _ of process.stdin);
}
const engine = await ReadMeEngine.open(POCKET, {
  precision: "fp32",
  cacheFolder,
  isolation: isolation as "thread" | "process",
  threads: 2,
});
const { cacheFailure } = engine;
const completed = await Promise.all(cases.map(({ text }) => complete(engine, { prompt: text, params: greedy })));
await engine.dispose();
const files = await readdir(cacheFolder, { recursive: true }).catch(() => []);
const report: Report = { cacheFailure, ids: completed.map(({ ids }) => ids), files };
console.log(JSON.stringify(report));
