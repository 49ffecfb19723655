// The lab's commands, which `readme-moe` finds when this package is installed beside it.

import type { Command } from "commander";
import { answerCommand } from "./answer.ts";
import { applyCommand, packCommand } from "./delta.ts";
import { exportCommand } from "./export.ts";
import { refactorCommand } from "./refactor.ts";
import { simulateCommand } from "./simulate.ts";
import { tuneCommand } from "./tune.ts";

export { runRefactorWorker } from "./job.ts";

/** Makes the lab's commands. @param signal - aborts their work */
export function labCommands(signal: AbortSignal): readonly Command[] {
  return [
    answerCommand(signal),
    refactorCommand(signal),
    tuneCommand(signal),
    packCommand(signal),
    applyCommand(signal),
    exportCommand(signal),
    simulateCommand(),
  ];
}
