// A scheduler of a module that hangs the engine: what a defect or a hostile file does.

import { writeFile } from "node:fs/promises";
import { join } from "node:path";

/** A sequence of so many tokens makes the scheduler hang. */
export const HANGING_TOKENS = 12;

/**
 * Writes a scheduler that runs one sequence at a time.
 * @param hang - what it does about a sequence that is too long, such as `for (;;)`
 */
export async function writeHangingScheduler(folder: string, hang: string): Promise<{ readonly module: string }> {
  const module = join(folder, `${hang.replaceAll(/\W/g, "")}.mjs`);
  await writeFile(
    module,
    `export default ({ sequences: [first], limits }) => {
      if (first.numTokens >= ${HANGING_TOKENS}) ${hang};
      const chunkEnd = (Math.floor(first.numComputedTokens / limits.chunkTokens) + 1) * limits.chunkTokens;
      return [{ id: first.id, numTokens: Math.min(first.numTokens, chunkEnd) - first.numComputedTokens }];
    };`,
  );
  return { module };
}
