// Which flags of Node, and which environment, worker processes start with.

const PROGRAM_TEXT = new Set(["-e", "--eval", "-p", "--print", "-pe"]);
// They say what the program is, watch it, or take a port or a file of their own.
const OF_THE_PROGRAM = /^--(?:eval=|print=|input-type|inspect|watch|test|cpu-prof|heap-prof)/;

/** Flags that limit a worker process's memory: it can collect what opening a model left, and has a small young generation. */
export const MEMORY_FLAGS: readonly string[] = ["--expose-gc", "--max-semi-space-size=4"];

/**
 * The environment of a worker process. glibc learns to keep freed memory of up to 64 MB for later, unless it is told when to give
 * it back; opening a model frees a lot that nobody asks for again.
 */
export function workerEnvironment(own: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return { MALLOC_TRIM_THRESHOLD_: "131072", ...own };
}

/** All but those that belong to the program alone: loaders, conditions and memory limits go on. */
export function workerFlags(execArgv: readonly string[]): string[] {
  return execArgv.filter(
    (flag, index) =>
      !PROGRAM_TEXT.has(flag) && !PROGRAM_TEXT.has(execArgv[index - 1] ?? "") && !OF_THE_PROGRAM.test(flag),
  );
}
