// A contender that stays open: it is asked for one batch after another, while others that stay open have their turns.

import { type Contender, type OpenContender, openContender } from "./contender.ts";

/** What it is asked for; the first thing is to open. */
export type TurnRequest =
  | { readonly kind: "open"; readonly open: OpenContender; readonly promptTokens: number; readonly newTokens: number }
  | { readonly kind: "generate"; readonly prompts: readonly (readonly number[])[]; readonly newTokens: number };

/** How long it took, in milliseconds. */
type TurnAnswer = { readonly elapsedMs: number } | { readonly failure: string };

let contender: Contender | undefined;

async function work(request: TurnRequest): Promise<void> {
  if (request.kind === "generate") {
    await contender?.generate(request.prompts, request.newTokens);
    return;
  }
  const { open, promptTokens, newTokens } = request;
  contender = await openContender(open);
  await contender.reserve?.(open.maxSequences, promptTokens + newTokens);
}

async function answer(request: TurnRequest): Promise<TurnAnswer> {
  const startMs = performance.now();
  try {
    await work(request);
    return { elapsedMs: performance.now() - startMs };
  } catch (error) {
    return { failure: error instanceof Error ? error.message : String(error) };
  }
}

// Whoever asked is gone, and nobody else would end this process.
process.once("disconnect", () => process.exit());
process.on("message", (request: TurnRequest) => {
  void answer(request).then((result) => process.send?.(result));
});
