// Routes that only fill gaps: those of llama.cpp's server and of Mistral's API. Both become requests for completions.

import { type GenerateChunk, isRecord } from "@readme-moe/core";
import { type ChatChoice, chatShape } from "../api/chat.ts";
import { type CompletionChoice, fillInApi } from "../api/completions.ts";
import type { AnswerFormat, AnswerPart, GenerationApi, Outcome } from "../api/generation.ts";
import type { CompletionBody } from "../api/request-schemas.ts";
import { generating } from "../api/serve-generation.ts";
import { type ApiError, renameParams } from "../http/errors.ts";
import type { SseEvent } from "../http/reply.ts";
import { ollamaSampling } from "../ollama/translate.ts";
import type { FimBody, InfillBody } from "./schemas.ts";

/** Values where a request names none: what a model's files recommend is for chats, and code repeats itself. */
const MOST_LIKELY = { temperature: 0, top_k: 0, top_p: 1, min_p: 0, repetition_penalty: 1 } as const;

/** A limit that the context's takes the place of. */
const NO_LIMIT = Number.MAX_SAFE_INTEGER;

/** Parameters of completions under the names of llama.cpp. */
const INFILL_PARAMS: Readonly<Record<string, string>> = {
  prompt: "input_prefix",
  suffix: "input_suffix",
  max_tokens: "n_predict",
  repetition_penalty: "repeat_penalty",
};

export const infill = generating<InfillBody, CompletionBody, CompletionChoice>((sent) => {
  const { n_predict: numPredict, t_max_predict_ms: maxMs, response_fields: fields } = sent;
  return {
    ...fillInApi,
    body: completionOf(sent),
    prepare: async (scope, settings) => ({
      ...(await fillInApi.prepare(scope, settings)),
      newBrake: maxMs ? () => lineWithin(maxMs, () => performance.now()) : undefined,
    }),
    format: ({ model }) => new InfillFormat({ model, fields: fields ?? [], isEmpty: numPredict === 0 }),
    translate: (error) => renameParams(error, INFILL_PARAMS),
  };
});

function completionOf(sent: InfillBody): CompletionBody {
  const { model, stream, n_predict: numPredict } = sent;
  return {
    model,
    stream,
    ...withDefaults(ollamaSampling(sent)),
    prompt: sent.input_prefix + (sent.prompt ?? ""),
    suffix: sent.input_suffix,
    input_extra: sent.input_extra?.map(({ filename, text }) => ({ filename, text })),
    // The engine reads a prompt when it generates, so one token is generated where none is asked for.
    max_tokens: numPredict == null || numPredict < 0 ? NO_LIMIT : Math.max(1, numPredict),
    read_me: { include: ["timings"] },
  };
}

type Sampling = ReturnType<typeof ollamaSampling>;

function withDefaults(sampling: Sampling): Sampling {
  const given = Object.entries(sampling).filter(([, value]) => value !== undefined && value !== null);
  return { ...MOST_LIKELY, ...Object.fromEntries(given) };
}

/**
 * Makes a brake that ends an answer of more than one line after a time.
 *
 * @param maxMs - time from the first chunk on
 * @param now - clock, in ms
 */
export function lineWithin(maxMs: number, now: () => number): (chunk: Pick<GenerateChunk, "text">) => boolean {
  let firstMs: number | undefined;
  let hasLineBreak = false;
  return ({ text }) => {
    const nowMs = now();
    firstMs ??= nowMs;
    hasLineBreak ||= text.includes("\n");
    return hasLineBreak && nowMs - firstMs > maxMs;
  };
}

/** Fills gaps with answers in the shape of chats, whose pieces all have a content. */
const fimApi: GenerationApi<CompletionBody, ChatChoice> = {
  ...fillInApi,
  async prepare(scope, settings) {
    const { shape: _, ...prepared } = await fillInApi.prepare(scope, settings);
    const reasoning = { newParser: undefined, endId: undefined };
    const includesRoutes = settings.includes.routes;
    const shape = chatShape({
      engine: scope.engine,
      logprobs: undefined,
      includesRoutes,
      newParser: undefined,
      reasoning,
    });
    return {
      ...prepared,
      shape: {
        ...shape,
        render: async (piece) => {
          const choices = await shape.render(piece);
          return choices.map((choice) => ({ ...choice, delta: { content: "", ...choice.delta } }));
        },
      },
    };
  },
};

export const fim = generating<FimBody, CompletionBody, ChatChoice>(
  ({ model, prompt, suffix, stream, max_tokens: maxTokens, random_seed: seed, metadata, ...sampling }) => ({
    ...fimApi,
    body: {
      model,
      stream,
      metadata,
      ...withDefaults({ ...sampling, seed: seed ?? sampling.seed }),
      prompt,
      suffix,
      max_tokens: maxTokens ?? NO_LIMIT,
    },
  }),
);

interface InfillFormatOptions {
  readonly model: string;
  /** Fields of the answer by their paths. @default all */
  readonly fields: readonly string[];
  /** Whether the request was to read the prompt only. */
  readonly isEmpty: boolean;
}

/** Collects an answer in the shape of llama.cpp's server, and makes the events that it is streamed as. */
class InfillFormat implements AnswerFormat<CompletionChoice> {
  readonly #options: InfillFormatOptions;
  #content = "";
  #numTokens = 0;
  #stopType: "eos" | "limit" | "word" = "eos";
  #stop = "";

  constructor(options: InfillFormatOptions) {
    this.#options = options;
  }

  add({ piece, choices, promptTokens }: AnswerPart<CompletionChoice>): readonly SseEvent[] {
    const { finishReason, stop } = piece;
    if (finishReason) this.#stopType = finishReason === "length" ? "limit" : stop === undefined ? "eos" : "word";
    this.#stop = stop ?? "";
    if (this.#options.isEmpty) return [];
    this.#numTokens += piece.tokens.length;
    const content = choices.map(({ text }) => text).join("");
    this.#content += content;
    if (content === "") return [];
    const counts = { tokens_predicted: this.#numTokens, tokens_evaluated: promptTokens };
    return [{ data: { index: 0, content, tokens: [], stop: false, id_slot: 0, ...counts } }];
  }

  end(outcome: Outcome): readonly SseEvent[] {
    return [{ data: this.#last(outcome, "") }];
  }

  whole(outcome: Outcome): object {
    return this.#last(outcome, this.#content);
  }

  fail(error: ApiError): readonly SseEvent[] {
    return [{ data: error.toJSON() }];
  }

  #last({ usage, timings }: Outcome, content: string): object {
    const { model, fields } = this.#options;
    return selectFields(fields, {
      index: 0,
      content,
      tokens: [],
      id_slot: 0,
      stop: true,
      model,
      tokens_predicted: this.#numTokens,
      tokens_evaluated: usage.prompt_tokens,
      tokens_cached: usage.prompt_tokens + this.#numTokens,
      has_new_line: this.#content.includes("\n"),
      truncated: false,
      stop_type: this.#stopType,
      stopping_word: this.#stop,
      timings,
    });
  }
}

/** Selects values by paths such as `timings/prompt_n`, each under its path. Unknown paths are left out. */
export function selectFields(paths: readonly string[], answer: object): object {
  if (paths.length === 0) return answer;
  const found = paths.map((path) => {
    const value = path
      .split("/")
      .reduce<unknown>((at, key) => (isRecord(at) && Object.hasOwn(at, key) ? at[key] : undefined), answer);
    return [path, value] as const;
  });
  return Object.fromEntries(found.filter(([, value]) => value !== undefined));
}
