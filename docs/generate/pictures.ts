// Draws the pictures of the pages with the project's own commands.

import { runCli } from "readme-moe";

/** Hits and latency of expert caches in a simulation. */
export const SIMULATION = "docs/images/simulated-caches.svg";

/** Pictures of the model that `npm start -- --pocket` makes, with their paths in the documentation. */
export const POCKET_PICTURES: Readonly<Record<string, string>> = {
  "routes.svg": "docs/images/pocket-routes.svg",
  "losses.svg": "docs/images/pocket-losses.svg",
  "overlap.svg": "docs/images/pocket-overlap.svg",
};

/** Draws the simulation; the same file at each call. */
export async function drawSimulation(file: string): Promise<void> {
  const log = console.log;
  console.log = () => undefined; // discards the table that is printed with the picture
  try {
    const args = ["simulate", "--scheduler", "fcfs", "--policy", "belady,lru,random", "--svg", file];
    const exitCode = await runCli(args);
    if (exitCode !== 0) throw new Error(`readme-moe ${args.join(" ")}: exit code ${exitCode}`);
  } finally {
    console.log = log;
  }
}
