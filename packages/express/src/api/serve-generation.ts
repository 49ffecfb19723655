// What both APIs do with a request, from its body to the end of its answer.

import type { Asker, Grammars } from "@readme-moe/grammar";
import type { Request, Response } from "express";
import type { z } from "zod";
import { answerStream, answerWhole } from "./answer/answer.ts";
import type { AnswerShape } from "./answer/answer-shape.ts";
import { clientName } from "../http/client-name.ts";
import { clientSignal } from "../http/client-signal.ts";
import { consultPolicy } from "./generation/consult-policy.ts";
import { numChoices, type GenerationPlan } from "./generation/plan.ts";
import type { GrammarBook } from "./grammar-book.ts";
import { localsOf } from "../http/locals.ts";
import type { RequestContext, ResolvedApiOptions } from "./options.ts";
import type { ChatBody } from "./schemas/chat-body.ts";
import type { CompletionBody } from "./schemas/completion-body.ts";
import { invalid } from "./sampling.ts";
import { readBody } from "./schemas/read-body.ts";
import type { Admission } from "../edge/admission.ts";
import type { Lease, ServedModels } from "../edge/served-models.ts";

export interface Serving extends ResolvedApiOptions {
  readonly models: ServedModels;
  readonly admission: Admission;
  readonly grammarBook: GrammarBook;
}

/** One of the two APIs. */
export interface GenerationApi<Body extends ChatBody | CompletionBody, Choice extends object> {
  readonly endpoint: RequestContext["endpoint"];
  readonly schema: z.ZodType<Body>;
  /** What can be said at once. @throws {ApiError} 400 */
  plan(body: Body, lease: Lease): GenerationPlan;
  /** What takes time, and is done for those only who were let in. @throws {ApiError} 400 */
  prepare(plan: GenerationPlan, body: Body, grammars: () => Promise<Grammars>, asker: Asker): Promise<Prepared<Choice>>;
}

interface Prepared<Choice extends object> {
  readonly plan: GenerationPlan;
  readonly shape: AnswerShape<Choice>;
}

export async function serveGeneration<Body extends ChatBody | CompletionBody, Choice extends object>(
  api: GenerationApi<Body, Choice>,
  serving: Serving,
  request: Request,
  response: Response,
): Promise<void> {
  const locals = localsOf(response);
  const signal = clientSignal(response);
  const { requestId, key } = locals;
  const context: RequestContext = { endpoint: api.endpoint, request, requestId, key, signal };
  const sent = readBody(api.schema, request.body);
  checkPriority(sent, serving.maxPriority);
  const body = await changed(api, sent, serving, context);
  const lease = serving.models.lease(body.model ?? undefined, { request, body });
  const use = serving.grammarBook.use(lease.engine);
  try {
    const client = clientName(request, response);
    const planned = { ...api.plan(body, lease), client };
    locals.endArrival?.();
    const ticket = serving.admission.enter({
      bytes: locals.bodyBytes ?? Number(request.get("content-length") ?? 0),
      maxCompletionTokens: planned.params.maxTokens,
      choices: numChoices(planned),
      key,
      client,
      priority: planned.priority,
      signal,
      model: lease.name,
    });
    try {
      const asker = { client, signal: ticket.signal };
      const { plan: prepared, shape } = await api.prepare(planned, body, () => use.grammars(asker.signal), asker);
      ticket.signal.throwIfAborted();
      const plan = await consultPolicy(prepared, ticket);
      ticket.signal.throwIfAborted();
      if (body.stream) await answerStream({ plan, shape, ticket }, response, serving);
      else await answerWhole({ plan, shape, ticket }, response, serving);
    } finally {
      ticket.release();
    }
  } finally {
    lease.release();
    use.release();
  }
}

/** Refuses a priority above what clients may ask for themselves; `onRequest` may give more. */
function checkPriority({ read_me: fields }: ChatBody | CompletionBody, maxPriority: number): void {
  const priority = fields?.priority ?? 0;
  if (priority > maxPriority) {
    throw invalid("read_me.priority", `expected at most ${maxPriority}, the limit of this server, got ${priority}`);
  }
}

async function changed<Body extends ChatBody | CompletionBody>(
  { schema }: Pick<GenerationApi<Body, object>, "schema">,
  body: Body,
  { onRequest }: Pick<Serving, "onRequest">,
  context: RequestContext,
): Promise<Body> {
  const other = await onRequest?.(body, context);
  return other === undefined ? body : readBody(schema, other);
}
