// From a plan to an answer: whole, or as a stream of chunks.

import type { Response } from "express";
import { asApiError } from "../../http/errors.ts";
import { ClientGone } from "../../http/client-signal.ts";
import type { GenerationPlan } from "../generation/plan.ts";
import { sendJson, type ReaderOptions } from "../../http/send-whole.ts";
import { localsOf, stampProcessingTime } from "../../http/locals.ts";
import type { ReadMeAnswer } from "../schemas/answers.ts";
import type { Ticket } from "../../edge/admission.ts";
import { SseWriter, type SseOptions } from "../sse-writer.ts";
import type { AnswerHead, AnswerShape } from "./answer-shape.ts";
import { runGeneration, type Outcome } from "./run-generation.ts";

/** A plan, and how its answer is to look. */
export interface Answerable<Choice extends object> {
  readonly plan: GenerationPlan;
  readonly shape: AnswerShape<Choice>;
  readonly ticket: Ticket;
}

export async function answerWhole<Choice extends object>(
  { plan, shape, ticket }: Answerable<Choice>,
  response: Response,
  options: ReaderOptions,
): Promise<void> {
  const chunks = new Map<number, Choice[]>();
  let prompts: ReadMeAnswer | undefined;
  const outcome = await runGeneration(plan, ticket, localsOf(response), async (piece, extra) => {
    prompts = extra ?? prompts;
    const ofChoice = chunks.get(piece.index) ?? [];
    chunks.set(piece.index, ofChoice);
    ofChoice.push(...(await shape.render(piece)));
  });
  const choices = [...chunks].toSorted(([a], [b]) => a - b).map(([index, ofChoice]) => shape.join(index, ofChoice));
  stampProcessingTime(response);
  const head = headOf(plan, shape.objects.whole);
  await sendJson(response, { ...head, choices, usage: outcome.usage, ...extras(outcome, prompts) }, options);
}

export async function answerStream<Choice extends object>(
  { plan, shape, ticket }: Answerable<Choice>,
  response: Response,
  options: SseOptions,
): Promise<void> {
  const writer = new SseWriter(response, options);
  const head = headOf(plan, shape.objects.chunk);
  const usage = plan.includes.usage ? { usage: null } : {};
  try {
    const outcome = await runGeneration(plan, ticket, localsOf(response), async (piece, extra) => {
      const choices = await shape.render(piece);
      // What belongs to one token is sent in one write, so that a client's clock sees one arrival.
      writer.send(
        ...choices.map((choice, index) => ({
          ...head,
          choices: [choice],
          ...usage,
          ...(index === 0 && extra ? { read_me: extra } : {}),
        })),
      );
    });
    if (plan.includes.usage || plan.includes.timings) {
      const last = plan.includes.usage ? { usage: outcome.usage } : {};
      writer.send({ ...head, choices: [], ...last, ...extras(outcome, undefined) });
    }
    writer.end();
  } catch (error) {
    writer.abandon();
    if (!response.headersSent || error instanceof ClientGone) throw error;
    localsOf(response).error = error;
    writer.fail(asApiError(error));
  }
}

function headOf({ id, model, engine }: GenerationPlan, object: string): AnswerHead {
  const created = Math.floor(Date.now() / 1000);
  return { id, object, created, model, system_fingerprint: `readme-moe-${engine.info.precision}` };
}

function extras({ timings, readMe }: Outcome, prompts: ReadMeAnswer | undefined): object {
  const all = { ...prompts, ...readMe };
  return { ...(timings ? { timings } : {}), ...(Object.keys(all).length > 0 ? { read_me: all } : {}) };
}
