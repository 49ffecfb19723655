// Completions, the older of the two APIs: from a body to the engine's input, and from pieces to choices.

import { randomUUID } from "node:crypto";
import { recommendedMaxTokens, type Engine, type FinishReason, type ProcessLogits } from "@readme-moe/core";
import { invalid, unsupported } from "../http/errors.ts";
import { JsonList } from "../http/reply.ts";
import { LIMITS } from "../limits.ts";
import type { CompletionLogprobs } from "./answer-schemas.ts";
import {
  checkIds,
  generationSettings,
  routesOf,
  textTokens,
  type AnswerShape,
  type ChoiceCollector,
  type ChoiceRoutes,
  type GenerationApi,
} from "./generation.ts";
import { completionLogprobs } from "./logprobs.ts";
import { checkConstrained, compileOutput, openGrammars, structuredOutput } from "./structured-output.ts";
import { completionBody, type CompletionBody } from "./request-schemas.ts";

export interface CompletionChoice extends ChoiceRoutes {
  readonly index: number;
  readonly text: string;
  readonly logprobs: CompletionLogprobs | null;
  readonly finish_reason: FinishReason | null;
}

/** Limit of completion tokens that OpenAI applies to requests without `max_tokens`. */
const DEFAULT_MAX_TOKENS = 16;

export const completionApi: GenerationApi<CompletionBody, CompletionChoice> = {
  schema: completionBody,
  settings(body, served) {
    const { info } = served.engine;
    const { max_tokens: maxTokens, logprobs } = body;
    if (body.echo && typeof logprobs === "number") {
      throw unsupported("echo", "'echo' is not supported together with 'logprobs'");
    }
    const output = structuredOutput(body);
    if (output) checkConstrained(body, output.param);
    const prompts = promptsOf(body);
    const numChoices = prompts.length * (body.n ?? 1);
    if (numChoices > LIMITS.choices.value) {
      throw invalid("n", `expected at most ${LIMITS.choices.value} choices of all prompts, got ${numChoices}`);
    }
    for (const [index, prompt] of prompts.entries()) {
      if (typeof prompt !== "string") checkIds(prompts.length > 1 ? `prompt[${index}]` : "prompt", prompt, info);
    }
    return generationSettings(body, served, {
      id: `cmpl-${randomUUID()}`,
      promptParam: "prompt",
      numPrompts: prompts.length,
      maxTokens: maxTokens ?? recommendedMaxTokens(info.samplingDefaults, body.min_tokens ?? 0) ?? DEFAULT_MAX_TOKENS,
      logprobs: logprobs ?? undefined,
    });
  },
  async prepare(scope, { includes }) {
    const { body, engine, grammarClient } = scope;
    const prompts = promptsOf(body);
    const textOf = async (prompt: string | readonly number[]): Promise<string> =>
      typeof prompt === "string" ? prompt : engine.detokenize(prompt);
    const echoes = body.echo ? await Promise.all(prompts.map(textOf)) : undefined;
    const logprobs = body.logprobs ?? undefined;
    const output = structuredOutput(body);
    const constraint =
      output && (await compileOutput(output, await openGrammars(output.param, () => scope.grammars()), grammarClient));
    const newProcessor = constraint && ((): ProcessLogits => constraint.processor({ signal: grammarClient.signal }));
    return {
      prompts,
      newProcessor,
      constrainedBy: output?.param,
      shape: completionShape({ engine, logprobs, includesRoutes: includes.routes, echoes }),
    };
  },
};

function promptsOf({ prompt }: CompletionBody): readonly (string | readonly number[])[] {
  if (typeof prompt === "string") return [prompt];
  return isTokenIds(prompt) ? [prompt] : prompt;
}

function isTokenIds(prompt: readonly unknown[]): prompt is readonly number[] {
  return typeof prompt[0] === "number";
}

interface CompletionShapeOptions {
  readonly engine: Engine;
  /** Number of most likely tokens per token. @default no log-probabilities */
  readonly logprobs: number | undefined;
  readonly includesRoutes: boolean;
  /** Text of each prompt, if answers begin with it. */
  readonly echoes: readonly string[] | undefined;
}

function completionShape(options: CompletionShapeOptions): AnswerShape<CompletionChoice> {
  const { engine, logprobs, includesRoutes, echoes } = options;
  /** Length of the text so far, by choice. */
  const offsets = new Map<number, number>();
  return {
    objects: { whole: "text_completion", chunk: "text_completion" },
    async render(piece) {
      const { index, finishReason } = piece;
      const offset = offsets.get(index);
      const text = (offset === undefined ? (echoes?.[piece.prompt] ?? "") : "") + piece.text;
      const tokens = textTokens(piece);
      const hasLogprobs = logprobs !== undefined && tokens.length > 0;
      const ofTokens = hasLogprobs
        ? await completionLogprobs(engine, tokens, { count: logprobs, offset: offset ?? 0 })
        : null;
      offsets.set(index, (offset ?? 0) + (ofTokens?.tokens.join("").length ?? 0));
      const routes = routesOf(piece, includesRoutes);
      // The first chunk is sent even without text: it shows that the first token has arrived.
      if (offset !== undefined && text === "" && !ofTokens && !routes.read_me && !finishReason) return [];
      return [{ index, text, logprobs: ofTokens, finish_reason: finishReason ?? null, ...routes }];
    },
    collect: (index) => collectCompletion(index, options),
  };
}

function collectCompletion(
  index: number,
  { logprobs, includesRoutes }: Pick<CompletionShapeOptions, "logprobs" | "includesRoutes">,
): ChoiceCollector<CompletionChoice> {
  let text = "";
  let finishReason: FinishReason | null = null;
  const lists = {
    tokens: new JsonList<string>(),
    token_logprobs: new JsonList<number>(),
    top_logprobs: new JsonList<CompletionLogprobs["top_logprobs"][number]>(),
    text_offset: new JsonList<number>(),
  };
  const routes: (number | null)[] = [];
  return {
    get keptBytes() {
      return Object.values(lists).reduce((sum, { bytes }) => sum + bytes, 0);
    },
    add(chunk) {
      text += chunk.text;
      lists.tokens.push(...(chunk.logprobs?.tokens ?? []));
      lists.token_logprobs.push(...(chunk.logprobs?.token_logprobs ?? []));
      lists.top_logprobs.push(...(chunk.logprobs?.top_logprobs ?? []));
      lists.text_offset.push(...(chunk.logprobs?.text_offset ?? []));
      routes.push(...(chunk.read_me?.routes ?? []));
      finishReason = chunk.finish_reason;
    },
    whole: () => ({
      index,
      text,
      logprobs: logprobs === undefined ? null : lists,
      finish_reason: finishReason,
      ...(includesRoutes ? { read_me: { routes } } : {}),
    }),
  };
}
