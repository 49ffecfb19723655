// Formats in which answers are sent: the interface that each API has one of, and the format of OpenAI's two older APIs.

import type { ApiError } from "../http/errors.ts";
import type { Framing, SseEvent } from "../http/reply.ts";
import type { ReadMeAnswer, TimingsAnswer, UsageAnswer } from "./answer-schemas.ts";
import type { RequestScope } from "./request-scope.ts";
import type { AnswerShape, ChoiceCollector, GenerationSettings, Piece } from "./generation.ts";
import type { ChatBody, CompletionBody } from "./request-schemas.ts";

/** Figures that are known at the end of a generation. */
export interface Outcome {
  readonly usage: UsageAnswer;
  readonly timings?: TimingsAnswer;
  readonly readMe?: ReadMeAnswer;
}

/** A piece of an answer, and the choices that it is rendered as. */
export interface AnswerPart<Choice extends object> {
  readonly piece: Piece;
  readonly choices: readonly Choice[];
  /** Routes of the prompts, with the first part, if the request asks for them. */
  readonly promptRoutes: ReadMeAnswer | undefined;
  /** Tokens of all prompts. */
  readonly promptTokens: number;
}

/** Form in which one answer is sent. It holds the state of that answer. */
export interface AnswerFormat<Choice extends object> {
  /** Form in which events are streamed. @default "events", which are server-sent */
  readonly framing?: Framing;
  /** Bytes of the log-probabilities that it keeps. @default none */
  readonly keptBytes?: number;
  /** Takes a part. @returns the events that it is streamed as */
  add(part: AnswerPart<Choice>): readonly SseEvent[];
  /** Returns the last events of a stream. */
  end(outcome: Outcome): readonly SseEvent[];
  /** Returns the whole answer. */
  whole(outcome: Outcome): object;
  /** Returns the events of an error that comes after the stream has begun. */
  fail(error: ApiError): readonly SseEvent[];
}

/** Returns the seconds since 1970 that an answer is dated with. */
export function nowSeconds(): number {
  return Math.floor(Date.now() / 1000);
}

/** Creates the format of `/v1/chat/completions` and `/v1/completions`. */
export function openAiFormat<Choice extends object>(
  shape: AnswerShape<Choice>,
  { model, engine, body }: Pick<RequestScope<ChatBody | CompletionBody>, "model" | "engine" | "body">,
  { id, created, includes }: Pick<GenerationSettings, "id" | "created" | "includes">,
): AnswerFormat<Choice> {
  const kept = new Map<number, ChoiceCollector<Choice>>();
  let keptBytes = 0;
  let routes: ReadMeAnswer | undefined;
  const headOf = (object: string, at: number): object => ({
    id,
    object,
    created: at,
    model,
    system_fingerprint: `readme-moe-${engine.info.precision}`,
  });
  // A stream's chunks all have the time of its beginning.
  const head = headOf(shape.objects.chunk, created);
  const noUsage = includes.usage ? { usage: null } : {};
  return {
    get keptBytes() {
      return keptBytes;
    },
    add({ piece, choices, promptRoutes }) {
      if (!body.stream) {
        routes ??= promptRoutes;
        const collector = kept.get(piece.index) ?? shape.collect(piece.index);
        kept.set(piece.index, collector);
        const before = collector.keptBytes;
        for (const choice of choices) collector.add(choice);
        keptBytes += collector.keptBytes - before;
        return [];
      }
      return choices.map((choice, index) => ({
        data: {
          ...head,
          choices: [choice],
          ...noUsage,
          ...(index === 0 && promptRoutes ? { read_me: promptRoutes } : {}),
        },
      }));
    },
    end(outcome) {
      const last = includes.usage ? { usage: outcome.usage } : {};
      const hasFigures = includes.usage || includes.timings;
      const figures = hasFigures ? [{ data: { ...head, choices: [], ...last, ...extrasOf(outcome, undefined) } }] : [];
      return [...figures, { data: "[DONE]" }];
    },
    whole(outcome) {
      const choices = [...kept].toSorted(([a], [b]) => a - b).map(([, collector]) => collector.whole());
      const whole = headOf(shape.objects.whole, nowSeconds());
      return { ...whole, choices, usage: outcome.usage, ...extrasOf(outcome, routes) };
    },
    // Without `[DONE]`: clients must not take the stream for complete.
    fail: (error) => [{ data: error.toJSON() }],
  };
}

function extrasOf({ timings, readMe }: Outcome, promptRoutes: ReadMeAnswer | undefined): object {
  const all = { ...promptRoutes, ...readMe };
  return { ...(timings ? { timings } : {}), ...(Object.keys(all).length > 0 ? { read_me: all } : {}) };
}
