// Which of a program's Node flags its worker processes start with.

const PROGRAM_TEXT = new Set(["-e", "--eval", "-p", "--print", "-pe"]);
// They say what the program is, watch it, or take a port or a file of their own.
const OF_THE_PROGRAM = /^--(?:eval=|print=|input-type|inspect|watch|test|cpu-prof|heap-prof)/;

/** Flags that limit a worker process's memory: it can collect what opening a model left, and has a small young generation. */
export const MEMORY_FLAGS: readonly string[] = ["--expose-gc", "--max-semi-space-size=4"];

/** All but those that belong to the program alone: loaders, conditions and memory limits go on. */
export function workerFlags(execArgv: readonly string[]): string[] {
  return execArgv.filter(
    (flag, index) =>
      !PROGRAM_TEXT.has(flag) && !PROGRAM_TEXT.has(execArgv[index - 1] ?? "") && !OF_THE_PROGRAM.test(flag),
  );
}
