// Runs a generation and sends its answer: whole, or as server-sent events.

import type { Usage } from "@readme-moe/core";
import { asApiError, engineError } from "../http/errors.ts";
import { ClientGone, stampProcessingTime } from "../http/request.ts";
import { sendJson, type SseEvent, SseWriter } from "../http/reply.ts";
import { timingsOf, usageAnswer } from "./answer-figures.ts";
import type { AnswerFormat, AnswerPart, Outcome } from "./answer-format.ts";
import type { ReadMeAnswer } from "./answer-schemas.ts";
import { streamNotFound, type EventNumbering } from "./event-ids.ts";
import type { Exchange } from "./exchange.ts";
import { seenExperts, withSeenRoutes } from "./expert-choice.ts";
import { generateAll, type AnswerShape, type GenerationInput, type GenerationSettings } from "./generation.ts";

/** A generation that is ready for its engine. */
export interface Answering<Choice extends object> {
  readonly exchange: Exchange;
  readonly settings: GenerationSettings;
  readonly input: GenerationInput & { readonly priority: number };
  readonly shape: AnswerShape<Choice>;
  readonly format: AnswerFormat<Choice>;
  /** Gives events their ids, where the engine keeps answers that can be followed. */
  readonly numbering?: EventNumbering | undefined;
}

export async function answerWhole<Choice extends object>(answering: Answering<Choice>): Promise<void> {
  const { exchange, shape, format } = answering;
  const outcome = await generate(answering, async (part) => {
    format.add({ ...part, choices: await shape.render(part.piece) });
    exchange.ticket.kept(format.keptBytes ?? 0);
  });
  exchange.ticket.kept(format.keptBytes ?? 0, true);
  const answer = format.whole({ ...outcome, ...reasoningOf(outcome, shape) });
  stampProcessingTime(exchange.response);
  await sendJson(exchange.response, answer, exchange.serving);
}

export async function answerStream<Choice extends object>(answering: Answering<Choice>): Promise<void> {
  const { exchange, shape, format, numbering } = answering;
  const { response, locals } = exchange;
  const numbered = (events: readonly SseEvent[]): readonly SseEvent[] => numbering?.take(events) ?? events;
  const writer = new SseWriter(response, exchange.serving, format.framing);
  try {
    const outcome = await generate(answering, async (part) => {
      // Events of one token go out in one write, so that clients measure one arrival.
      writer.send(...numbered(format.add({ ...part, choices: await shape.render(part.piece) })));
      exchange.ticket.kept(format.keptBytes ?? 0);
    });
    const last = numbered(format.end({ ...outcome, ...reasoningOf(outcome, shape) }));
    // The client has events of an answer that was longer.
    if (numbering?.isReplaying) throw streamNotFound();
    await writer.end(...last);
  } catch (error) {
    writer.abandon();
    if (!response.headersSent || error instanceof ClientGone) throw error;
    locals.error = error;
    await writer.end(...format.fail(asApiError(error)));
  }
}

/** Adds the tokens of reasoning to an answer's usage, where the model reasons. */
function reasoningOf({ usage }: Outcome, shape: AnswerShape<object>): Pick<Outcome, "usage"> {
  const tokens = shape.reasoningTokens?.();
  if (tokens === undefined) return { usage };
  return {
    usage: {
      ...usage,
      completion_tokens_details: {
        accepted_prediction_tokens: 0,
        rejected_prediction_tokens: 0,
        ...usage.completion_tokens_details,
        reasoning_tokens: tokens,
      },
    },
  };
}

/**
 * Generates, passes each piece to `onPart` in order, reports progress to admission, and counts tokens and times.
 *
 * @param onPart - also gets the prompts' routes with the first piece, if they were asked for
 */
async function generate(
  { exchange, settings, input, numbering }: Answering<object>,
  onPart: (part: Omit<AnswerPart<object>, "choices">) => Promise<void>,
): Promise<Outcome> {
  const { engine, client, cacheSalt, traceparent, signal, ticket, locals } = exchange;
  // Experts may be unloaded until the answer comes.
  const seen = settings.includes.routes ? seenExperts(exchange) : undefined;
  const promptRoutes = seen && routePrompts(exchange, settings, input, seen);
  let firstTokenMs: number | undefined;
  let [promptTokens, completionTokens] = [0, 0];
  // The server that began the answer has charged for what its client got.
  const isFollowed = numbering?.isReplaying ?? false;
  const usages: Usage[] = [];
  const onAccepted = (prompt: { readonly promptTokens: number; readonly experts: ArrayLike<number> }): void => {
    ticket.correct((promptTokens += prompt.promptTokens));
    // With a policy, `consultPolicy` has reported the routes.
    if (!ticket.consult) ticket.routed(prompt.experts);
  };
  try {
    const owner = { client, cacheSalt, traceparent, signal };
    const asked = { engine, settings, input, ...owner, isFollowed, onAccepted };
    for await (const piece of generateAll(asked)) {
      const isFirst = firstTokenMs === undefined;
      firstTokenMs ??= performance.now();
      if (isFirst) ticket.started();
      if (!numbering?.isReplaying) completionTokens += piece.tokens.length;
      if (piece.usage) usages.push(piece.usage);
      const part = { piece: seen ? withSeenRoutes(piece, seen) : piece, promptTokens };
      await onPart({ ...part, promptRoutes: isFirst ? await promptRoutes : undefined });
    }
  } catch (error) {
    // `onPart` and `promptRoutes` ask the engine as well, which may have failed by then.
    throw engineError(error, settings.promptParam, engine.info);
  } finally {
    // Aborted requests pay for their tokens, too.
    locals.spendTokens?.((isFollowed ? 0 : promptTokens) + completionTokens);
  }
  const usage = usageAnswer(usages, input);
  if (!settings.includes.timings) return { usage };
  const endMs = performance.now();
  const queuedMs = Math.max(0, ...usages.map((one) => one.queuedMs));
  const { arrivalMs } = locals;
  return { usage, ...timingsOf({ arrivalMs, firstTokenMs: firstTokenMs ?? endMs, endMs, queuedMs }, usage) };
}

/** Returns the expert of each token of the prompts. @param seen - names of experts that the client may see */
function routePrompts(
  { engine }: Exchange,
  { expert }: GenerationSettings,
  { prompts }: GenerationInput,
  seen: readonly string[],
): Promise<ReadMeAnswer> {
  const routing = Promise.all(prompts.map((prompt) => engine.route(prompt, expert))).then((routes) => ({
    experts: [...seen],
    prompt_routes: routes.map(({ experts }) => Array.from(experts, (one) => (seen[one] ? one : null))),
  }));
  // The engine also refuses to continue a prompt that it cannot route, and reports that error.
  routing.catch(() => undefined);
  return routing;
}
