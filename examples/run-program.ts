import { reportError } from "readme-moe";

/** Runs a program. Prints an error that ends it as the command line does, and sets the exit code: 2 for a wrong call. */
export async function runProgram(main: () => Promise<void>): Promise<void> {
  try {
    await main();
  } catch (error) {
    process.exitCode = reportError(error);
  }
}
