// Pictures of the pages, made by the project's own commands.

import { runCli } from "readme-moe";

/** What a cache makes of known routes. */
export const SIMULATION = "docs/images/simulated-caches.svg";

/** Of the model that `npm start` makes: its own pictures, and what they are called here. */
export const POCKET_PICTURES: Readonly<Record<string, string>> = {
  "routes.svg": "docs/images/pocket-routes.svg",
  "losses.svg": "docs/images/pocket-losses.svg",
  "overlap.svg": "docs/images/pocket-overlap.svg",
};

/** The same file at each call. */
export async function drawSimulation(file: string): Promise<void> {
  const log = console.log;
  console.log = () => undefined; // the table that goes with the picture
  try {
    const args = ["simulate", "--scheduler", "fcfs", "--policy", "belady,lru,random", "--svg", file];
    const exitCode = await runCli(args);
    if (exitCode !== 0) throw new Error(`readme-moe ${args.join(" ")}: exit code ${exitCode}`);
  } finally {
    console.log = log;
  }
}
