// Checks the problems themselves: the tests accept the reference, and refuse its wrong changes and an empty program.

import { jobOf, type Problem } from "./problems.ts";
import { runJob } from "./sandbox.ts";

/** Returns what is wrong with a problem; nothing if its tests tell right from wrong. */
export async function faultsOf(problem: Problem): Promise<readonly string[]> {
  const { language, name, prompt, solution, wrong, tests } = problem;
  const faults: string[] = [];
  const verdictOf = async (program: string) => runJob(language, await jobOf(problem, program));
  if (tests.length < 5) faults.push(`has ${tests.length} tests`);
  if (wrong.length === 0) faults.push("has no wrong program");
  const { why } = await verdictOf(prompt + solution);
  if (why !== undefined) faults.push(`the reference fails: ${why}`);
  const empty = language === "python" ? `${prompt}    pass\n` : `${prompt}}\n`;
  for (const program of [...wrong, empty]) {
    const { isSolved, why: refusal = "" } = await verdictOf(program);
    if (isSolved) faults.push(`a wrong program passes: ${program}`);
    if (/SyntaxError: invalid|IndentationError/.test(refusal)) faults.push(`a wrong program is none: ${refusal}`);
  }
  return faults.map((fault) => `${language} ${name}: ${fault}`);
}
