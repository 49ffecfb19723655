import type { ExpertRun } from "@readme-moe/core";

/** Whether each run had all that was known to be needed in it. What comes meanwhile, or is overdue, changes plans. */
export function plansHeld(runs: readonly ExpertRun[]): boolean {
  return runs.every(({ planned }, at) => planned.every((expert) => runs[at + 1]?.experts.includes(expert) ?? false));
}
