// One contender, once: gets its job as a message, answers with measurements or with why there are none.

import type { Figure } from "../kit/sample.ts";
import type { OpenContender, OpenFunction } from "./contender.ts";
import { measure } from "./measure.ts";
import type { Workload } from "./workload.ts";

export interface Job {
  readonly open: OpenContender;
  readonly workload: Workload;
}

export type Answer = { readonly figures: readonly Figure[] } | { readonly failure: string };

/** Each library is imported where it is used: its time counts, and its memory only for itself. */
async function opened(open: OpenContender): ReturnType<OpenFunction> {
  const module = (await import(open.spec.module)) as { readonly open: OpenFunction };
  return module.open(open);
}

async function answer({ open, workload }: Job): Promise<Answer> {
  try {
    return { figures: await measure(() => opened(open), workload) };
  } catch (error) {
    return { failure: error instanceof Error ? error.message : String(error) };
  }
}

// Whoever asked is gone, and nobody else would end this process.
process.once("disconnect", () => process.exit());
process.once("message", (job: Job) => {
  void answer(job).then((result) => process.send?.(result, () => process.exit()));
});
