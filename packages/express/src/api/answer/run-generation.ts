import type { Usage } from "@readme-moe/core";
import { engineError } from "../../http/errors.ts";
import { generateAll, type Piece } from "../generation/generate-all.ts";
import type { GenerationPlan } from "../generation/plan.ts";
import { timingsOf } from "../generation/timings.ts";
import { usageAnswer } from "../generation/usage.ts";
import type { RequestLocals } from "../../http/locals.ts";
import type { ReadMeAnswer, TimingsAnswer, UsageAnswer } from "../schemas/answers.ts";
import type { Ticket } from "../../edge/admission.ts";

/** What is known at the end. */
export interface Outcome {
  readonly usage: UsageAnswer;
  readonly timings?: TimingsAnswer;
  readonly readMe?: ReadMeAnswer;
}

export interface PieceListener {
  /** @param extra - what is known of the prompts, with the first piece */
  (piece: Piece, extra: ReadMeAnswer | undefined): Promise<void>;
}

/** Generates, hands each piece on in order, takes the time, and counts the tokens. */
export async function runGeneration(
  plan: GenerationPlan,
  ticket: Ticket,
  { arrivalMs, spendTokens }: Pick<RequestLocals, "arrivalMs" | "spendTokens">,
  onPiece: PieceListener,
): Promise<Outcome> {
  const prompts = promptRoutes(plan);
  let firstTokenMs: number | undefined;
  let [queuedMs, promptTokens, completionTokens] = [0, 0, 0];
  const usages: Usage[] = [];
  const listeners = {
    onQueuedMs: (ms: number) => void (queuedMs = Math.max(queuedMs, ms)),
    // Those who were to be consulted about their routes have told them.
    onRouted: (experts: ArrayLike<number>) => void (ticket.consult ?? ticket.routed(experts)),
    onPromptTokens: (count: number) => ticket.correct((promptTokens += count)),
  };
  try {
    for await (const piece of generateAll(plan, ticket.signal, listeners)) {
      const isFirst = firstTokenMs === undefined;
      firstTokenMs ??= performance.now();
      if (isFirst) ticket.started();
      completionTokens += piece.tokens.length;
      if (piece.usage) usages.push(piece.usage);
      await onPiece(piece, isFirst ? await prompts : undefined);
    }
  } catch (error) {
    // The engine is asked for texts and routes as well, and may have failed by then.
    throw engineError(error, plan.promptParam, plan.engine.info);
  } finally {
    // Also of a request that was given up.
    spendTokens?.(promptTokens + completionTokens);
  }
  const usage = usageAnswer(usages);
  if (!plan.includes.timings) return { usage };
  const endMs = performance.now();
  return { usage, ...timingsOf({ arrivalMs, firstTokenMs: firstTokenMs ?? endMs, endMs, queuedMs }, usage) };
}

/** Where the prompts' tokens go, where that is asked for. */
function promptRoutes({ engine, prompts, expert, includes }: GenerationPlan): Promise<ReadMeAnswer | undefined> {
  if (!includes.routes) return Promise.resolve(undefined);
  const routed = Promise.all(prompts.map((prompt) => engine.route(prompt, expert))).then((routes) => ({
    experts: [...engine.info.experts],
    prompt_routes: routes.map(({ experts }) => Array.from(experts)),
  }));
  // A prompt that cannot be routed cannot be continued either, and that error is told.
  routed.catch(() => undefined);
  return routed;
}
