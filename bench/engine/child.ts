// One contender, once: gets its job as a message, answers with measurements or with why there are none.

import type { Contender, OpenContender } from "./contender.ts";
import { measure, type Measurements } from "./measure.ts";
import type { Workload } from "./workload.ts";

export interface Job {
  readonly open: OpenContender;
  readonly workload: Workload;
}

export type Answer = { readonly measurements: Measurements } | { readonly failure: string };

type Opener = (open: OpenContender) => Promise<Contender>;

/** Each library is imported where it is used: its time counts, and its memory only for itself. */
const OPENERS: Readonly<Record<OpenContender["spec"]["engine"], Opener>> = {
  "readme-moe": async (open) => (await import("./ours.ts")).openOurs(open),
  "transformers.js": async (open) => (await import("./transformersjs.ts")).openTransformersJs(open),
  "node-llama-cpp": async (open) => (await import("./llama-cpp.ts")).openLlamaCpp(open),
};

async function answer({ open, workload }: Job): Promise<Answer> {
  try {
    return { measurements: await measure(() => OPENERS[open.spec.engine](open), workload) };
  } catch (error) {
    return { failure: error instanceof Error ? error.message : String(error) };
  }
}

// Whoever asked is gone, and nobody else would end this process.
process.once("disconnect", () => process.exit());
process.once("message", (job: Job) => {
  void answer(job).then((result) => process.send?.(result, () => process.exit()));
});
