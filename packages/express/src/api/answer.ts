// Answers in the shape of either API: whole, or as server-sent events.

import type { Usage } from "@readme-moe/core";
import type { Response } from "express";
import { asApiError, engineError, type ApiError } from "../http/errors.ts";
import { ClientGone, stampProcessingTime } from "../http/request.ts";
import { sendJson } from "../http/send-json.ts";
import type { ReadMeAnswer, TimingsAnswer, UsageAnswer } from "./answer-schemas.ts";
import { timingsOf, usageAnswer } from "./answer-figures.ts";
import type { Exchange } from "./exchange.ts";
import {
  generateAll,
  type AnswerShape,
  type GenerationInput,
  type GenerationSettings,
  type Piece,
} from "./generation.ts";
import type { ResolvedApiOptions } from "./options.ts";

/** A generation that is ready for its engine. */
export interface Answering<Choice extends object> {
  readonly exchange: Exchange;
  readonly settings: GenerationSettings;
  readonly input: GenerationInput & { readonly priority: number };
  readonly shape: AnswerShape<Choice>;
}

export async function answerWhole<Choice extends object>(answering: Answering<Choice>): Promise<void> {
  const { exchange, settings, shape } = answering;
  const chunks = new Map<number, Choice[]>();
  let promptRoutes: ReadMeAnswer | undefined;
  const outcome = await generate(answering, async (piece, routes) => {
    promptRoutes ??= routes;
    const ofChoice = chunks.get(piece.index) ?? [];
    chunks.set(piece.index, ofChoice);
    ofChoice.push(...(await shape.render(piece)));
  });
  const choices = [...chunks].toSorted(([a], [b]) => a - b).map(([index, ofChoice]) => shape.join(index, ofChoice));
  stampProcessingTime(exchange.response);
  const head = headOf(exchange, settings, shape.objects.whole);
  const answer = { ...head, choices, usage: outcome.usage, ...extrasOf(outcome, promptRoutes) };
  await sendJson(exchange.response, answer, exchange.serving);
}

export async function answerStream<Choice extends object>(answering: Answering<Choice>): Promise<void> {
  const { exchange, settings, shape } = answering;
  const { response, locals } = exchange;
  const { includes } = settings;
  const writer = new SseWriter(response, exchange.serving);
  const head = headOf(exchange, settings, shape.objects.chunk);
  const usage = includes.usage ? { usage: null } : {};
  try {
    const outcome = await generate(answering, async (piece, routes) => {
      const choices = await shape.render(piece);
      // Chunks of one token go out in one write, so that clients measure one arrival.
      writer.send(
        ...choices.map((choice, index) => ({
          ...head,
          choices: [choice],
          ...usage,
          ...(index === 0 && routes ? { read_me: routes } : {}),
        })),
      );
    });
    if (includes.usage || includes.timings) {
      const last = includes.usage ? { usage: outcome.usage } : {};
      writer.send({ ...head, choices: [], ...last, ...extrasOf(outcome, undefined) });
    }
    writer.end();
  } catch (error) {
    writer.abandon();
    if (!response.headersSent || error instanceof ClientGone) throw error;
    locals.error = error;
    writer.fail(asApiError(error));
  }
}

/** Returns the fields that an answer and each of its chunks begin with. */
function headOf({ model, engine }: Exchange, { id }: GenerationSettings, object: string): object {
  const created = Math.floor(Date.now() / 1000);
  return { id, object, created, model, system_fingerprint: `readme-moe-${engine.info.precision}` };
}

function extrasOf({ timings, readMe }: Outcome, promptRoutes: ReadMeAnswer | undefined): object {
  const all = { ...promptRoutes, ...readMe };
  return { ...(timings ? { timings } : {}), ...(Object.keys(all).length > 0 ? { read_me: all } : {}) };
}

/** Figures that are known at the end of a generation. */
interface Outcome {
  readonly usage: UsageAnswer;
  readonly timings?: TimingsAnswer;
  readonly readMe?: ReadMeAnswer;
}

/**
 * Generates, passes each piece to `onPiece` in order, reports progress to admission, and counts tokens and times.
 *
 * @param onPiece - also gets the prompts' routes with the first piece, if they were asked for
 */
async function generate(
  { exchange, settings, input }: Answering<object>,
  onPiece: (piece: Piece, promptRoutes: ReadMeAnswer | undefined) => Promise<void>,
): Promise<Outcome> {
  const { engine, client, signal, ticket, locals } = exchange;
  const promptRoutes = routePrompts(exchange, settings, input);
  let firstTokenMs: number | undefined;
  let [promptTokens, completionTokens] = [0, 0];
  const usages: Usage[] = [];
  const onAccepted = (prompt: { readonly promptTokens: number; readonly experts: ArrayLike<number> }): void => {
    ticket.correct((promptTokens += prompt.promptTokens));
    // With a policy, `consultPolicy` has reported the routes.
    if (!ticket.consult) ticket.routed(prompt.experts);
  };
  try {
    for await (const piece of generateAll({ engine, settings, input, client, signal, onAccepted })) {
      const isFirst = firstTokenMs === undefined;
      firstTokenMs ??= performance.now();
      if (isFirst) ticket.started();
      completionTokens += piece.tokens.length;
      if (piece.usage) usages.push(piece.usage);
      await onPiece(piece, isFirst ? await promptRoutes : undefined);
    }
  } catch (error) {
    // `onPiece` and `promptRoutes` ask the engine as well, which may have failed by then.
    throw engineError(error, settings.promptParam, engine.info);
  } finally {
    // Aborted requests pay for their tokens, too.
    locals.spendTokens?.(promptTokens + completionTokens);
  }
  const usage = usageAnswer(usages, input);
  if (!settings.includes.timings) return { usage };
  const endMs = performance.now();
  const queuedMs = Math.max(0, ...usages.map((one) => one.queuedMs));
  const { arrivalMs } = locals;
  return { usage, ...timingsOf({ arrivalMs, firstTokenMs: firstTokenMs ?? endMs, endMs, queuedMs }, usage) };
}

/** Returns the expert of each token of the prompts, if the request asks for routes. */
function routePrompts(
  { engine }: Exchange,
  { expert, includes }: GenerationSettings,
  { prompts }: GenerationInput,
): Promise<ReadMeAnswer | undefined> {
  if (!includes.routes) return Promise.resolve(undefined);
  // Experts may be unloaded until the answer comes.
  const experts = [...engine.info.experts];
  const routing = Promise.all(prompts.map((prompt) => engine.route(prompt, expert))).then((routes) => ({
    experts,
    prompt_routes: routes.map((routed) => Array.from(routed.experts)),
  }));
  // The engine also refuses to continue a prompt that it cannot route, and reports that error.
  routing.catch(() => undefined);
  return routing;
}

type SseOptions = Pick<ResolvedApiOptions, "keepAliveMs" | "maxBufferedBytes" | "slowReaderMs" | "timers">;

/**
 * Writes server-sent events to a client that may read slowly or not at all. Sends nothing, headers included, before the
 * first event: errors before that have a status.
 */
export class SseWriter {
  readonly #response: Response;
  readonly #options: SseOptions;
  #stopKeepAlive: () => void = () => undefined;
  #stopSlowReader: (() => void) | undefined;

  constructor(response: Response, options: SseOptions) {
    this.#response = response;
    this.#options = options;
    response.on("drain", () => this.#drained());
    response.once("close", () => {
      this.#stopKeepAlive();
      this.#drained();
    });
  }

  /** Sends events in one write. */
  send(...payloads: readonly object[]): void {
    if (payloads.length > 0) this.#write(payloads.map((payload) => `data: ${JSON.stringify(payload)}\n\n`).join(""));
  }

  end(): void {
    this.#write("data: [DONE]\n\n");
    this.#stopKeepAlive();
    this.#response.end();
  }

  /** Ends a stream that has begun with an error, and without `[DONE]`: clients must not take it for complete. */
  fail(error: ApiError): void {
    this.send(error.toJSON());
    this.#stopKeepAlive();
    this.#response.end();
  }

  /** Stops sending comments that keep the connection open. */
  abandon(): void {
    this.#stopKeepAlive();
  }

  #write(text: string): void {
    const response = this.#response;
    if (response.destroyed || response.writableEnded) return;
    if (!response.headersSent) this.#setHeaders();
    const isTaken = response.write(text);
    // Compressing middleware adds `flush`, and would otherwise wait for more data.
    if ("flush" in response && typeof response.flush === "function") response.flush();
    this.#keepAlive();
    if (isTaken) return;
    const { maxBufferedBytes, slowReaderMs, timers } = this.#options;
    if (response.writableLength > maxBufferedBytes) this.#drop();
    else this.#stopSlowReader ??= timers.after(slowReaderMs, () => this.#drop());
  }

  #setHeaders(): void {
    const response = this.#response;
    response.status(200);
    response.setHeader("Content-Type", "text/event-stream; charset=utf-8");
    response.setHeader("Cache-Control", "no-cache, no-transform");
    response.setHeader("X-Accel-Buffering", "no");
    // Node sets `Connection`, since it knows requests that asked for `close`, and that HTTP/2 has no such header.
    stampProcessingTime(response);
  }

  #keepAlive(): void {
    const { keepAliveMs, timers } = this.#options;
    this.#stopKeepAlive();
    this.#stopKeepAlive = timers.after(keepAliveMs, () => this.#write(": ping\n\n"));
  }

  #drained(): void {
    this.#stopSlowReader?.();
    this.#stopSlowReader = undefined;
  }

  #drop(): void {
    this.#stopKeepAlive();
    this.#response.destroy();
  }
}
