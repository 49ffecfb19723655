// A contender's own process: it measures one contender once, or keeps it open and runs one batch after another.

import type { Figure } from "../kit/samples.ts";
import { type Contender, type OpenContender, openContender } from "./contender.ts";
import { measure } from "./measure.ts";
import type { Workload } from "./workload.ts";

/** A message to the process. `measure` is sent alone; `generate` follows `open`. */
export type ChildRequest =
  | { readonly kind: "measure"; readonly open: OpenContender; readonly workload: Workload }
  | { readonly kind: "open"; readonly open: OpenContender; readonly promptTokens: number; readonly newTokens: number }
  | { readonly kind: "generate"; readonly prompts: readonly (readonly number[])[]; readonly newTokens: number };

/** How long a request took, and when the first new token of each of its prompts came, in ms from its beginning. */
export interface BatchTimes {
  readonly elapsedMs: number;
  readonly firstMs: readonly number[];
}

/** Figures of `measure`, and the times of `generate`. */
export interface ChildAnswer extends BatchTimes {
  readonly figures: readonly Figure[];
}

let contender: Contender | undefined;

async function work(request: ChildRequest): Promise<Partial<ChildAnswer>> {
  if (request.kind === "measure") {
    return { figures: await measure(() => openContender(request.open), request.workload) };
  }
  if (request.kind === "generate") {
    return { firstMs: (await contender?.generate(request.prompts, request.newTokens)) ?? [] };
  }
  const { open, promptTokens, newTokens } = request;
  contender = await openContender(open);
  await contender.reserve?.(open.maxSequences, promptTokens + newTokens);
  return {};
}

async function answer(request: ChildRequest): Promise<ChildAnswer | { readonly failure: string }> {
  const startMs = performance.now();
  try {
    const done = await work(request);
    return { figures: [], firstMs: [], ...done, elapsedMs: performance.now() - startMs };
  } catch (error) {
    return { failure: error instanceof Error ? error.message : String(error) };
  }
}

// The parent process is gone, and nothing else would end this one.
process.once("disconnect", () => process.exit());
process.on("message", (request: ChildRequest) => {
  void answer(request).then((result) => process.send?.(result));
});
