// One contender, once: gets its job as a message, answers with measurements or with why there are none.

import type { Figure } from "../kit/sample.ts";
import { type OpenContender, openContender } from "./contender.ts";
import { measure } from "./measure.ts";
import type { Workload } from "./workload.ts";

export interface Job {
  readonly open: OpenContender;
  readonly workload: Workload;
}

type Answer = { readonly figures: readonly Figure[] } | { readonly failure: string };

async function answer({ open, workload }: Job): Promise<Answer> {
  try {
    return { figures: await measure(() => openContender(open), workload) };
  } catch (error) {
    return { failure: error instanceof Error ? error.message : String(error) };
  }
}

// Whoever asked is gone, and nobody else would end this process.
process.once("disconnect", () => process.exit());
process.once("message", (job: Job) => {
  void answer(job).then((result) => process.send?.(result, () => process.exit()));
});
