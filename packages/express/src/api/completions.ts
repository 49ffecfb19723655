// Completions, the older of the two APIs: from a body to the engine's input, and from pieces to choices. A text with a
// gap is filled by the same, whichever API asks.

import { randomUUID } from "node:crypto";
import {
  recommendedMaxTokens,
  type Engine,
  type FillInPrompt,
  type FinishReason,
  type ProcessLogits,
} from "@readme-moe/core";
import { invalid, unsupported } from "../http/errors.ts";
import { JsonList } from "../http/reply.ts";
import { LIMITS } from "../limits.ts";
import type { CompletionLogprobs } from "./answer-schemas.ts";
import {
  checkedTexts,
  generationSettings,
  routesOf,
  textTokens,
  type AnswerShape,
  type ChoiceCollector,
  type ChoiceRoutes,
  type GenerationApi,
  type GenerationInput,
  type GenerationSettings,
} from "./generation.ts";
import { completionLogprobs } from "./logprobs.ts";
import { checkConstrained, compileOutput, openGrammars, structuredOutput } from "./structured-output.ts";
import { completionBody, type CompletionBody } from "./request-schemas.ts";
import type { RequestScope } from "./request-scope.ts";

export interface CompletionChoice extends ChoiceRoutes {
  readonly index: number;
  readonly text: string;
  readonly logprobs: CompletionLogprobs | null;
  readonly finish_reason: FinishReason | null;
}

/** Limit of completion tokens that OpenAI applies to requests without `max_tokens`. */
const DEFAULT_MAX_TOKENS = 16;

/** Continues texts, and fills the gap before a suffix that is not empty. */
export const completionApi: GenerationApi<CompletionBody, CompletionChoice> = completionsWhere(({ suffix }) =>
  Boolean(suffix),
);

/** Fills the gap behind the prompt, also where nothing follows. */
export const fillInApi: GenerationApi<CompletionBody, CompletionChoice> = completionsWhere(() => true);

/** Makes the API of completions. @param fillsIn - tells whether a request is about a text with a gap */
function completionsWhere(fillsIn: (body: CompletionBody) => boolean): GenerationApi<CompletionBody, CompletionChoice> {
  return {
    schema: completionBody,
    settings: (body, served) => {
      checkGap(body, served, fillsIn(body));
      return completionSettings(body, served);
    },
    prepare: (scope, settings) => prepareCompletion(scope, settings, fillsIn(scope.body)),
  };
}

type Served = Parameters<GenerationApi<CompletionBody, CompletionChoice>["settings"]>[1];

/** @throws {ApiError} 400 for fields that are only for a text with a gap, or not for one */
function checkGap({ prompt, echo, input_extra: files }: CompletionBody, served: Served, fillsIn: boolean): void {
  if (!fillsIn) {
    if (files && files.length > 0) throw invalid("input_extra", "expected `suffix` beside it");
    return;
  }
  if (!served.engine.info.fillIn) {
    throw unsupported(
      "suffix",
      `The model '${served.model}' cannot fill in the middle: its vocabulary has no marks for it`,
    );
  }
  if (echo) throw unsupported("echo", "'echo' is not supported together with 'suffix'");
  const isText = [prompt].flat().every((one) => typeof one === "string");
  if (!isText) throw invalid("prompt", "expected a text beside `suffix`, got token ids");
}

/** @throws {ApiError} 400 */
function completionSettings(body: CompletionBody, served: Served): ReturnType<typeof generationSettings> {
  const { info } = served.engine;
  const { max_tokens: maxTokens, logprobs } = body;
  if (body.echo && typeof logprobs === "number") {
    throw unsupported("echo", "'echo' is not supported together with 'logprobs'");
  }
  const output = structuredOutput(body);
  if (output) checkConstrained(body, output.param);
  const prompts = checkedTexts("prompt", body.prompt, info);
  const numChoices = prompts.length * (body.n ?? 1);
  if (numChoices > LIMITS.choices.value) {
    throw invalid("n", `expected at most ${LIMITS.choices.value} choices of all prompts, got ${numChoices}`);
  }
  return generationSettings(body, served, {
    id: `cmpl-${randomUUID()}`,
    promptParam: "prompt",
    numPrompts: prompts.length,
    maxTokens: maxTokens ?? recommendedMaxTokens(info.samplingDefaults, body.min_tokens ?? 0) ?? DEFAULT_MAX_TOKENS,
    logprobs: logprobs ?? undefined,
  });
}

async function prepareCompletion(
  scope: RequestScope<CompletionBody>,
  { includes }: GenerationSettings,
  fillsIn: boolean,
): Promise<GenerationInput & { readonly shape: AnswerShape<CompletionChoice> }> {
  const { body, engine, grammarClient } = scope;
  const prompts = checkedTexts("prompt", body.prompt, engine.info);
  const textOf = async (prompt: string | readonly number[]): Promise<string> =>
    typeof prompt === "string" ? prompt : engine.detokenize(prompt);
  const echoes = body.echo ? await Promise.all(prompts.map(textOf)) : undefined;
  const logprobs = body.logprobs ?? undefined;
  const output = structuredOutput(body);
  const constraint =
    output && (await compileOutput(output, await openGrammars(output.param, () => scope.grammars()), grammarClient));
  const newProcessor = constraint && ((): ProcessLogits => constraint.processor({ signal: grammarClient.signal }));
  return {
    prompts: fillsIn ? prompts.map((prompt) => gapOf(body, prompt)) : prompts,
    newProcessor,
    constrainedBy: output?.param,
    shape: completionShape({ engine, logprobs, includesRoutes: includes.routes, echoes }),
  };
}

function gapOf(
  { suffix, input_extra: extra }: CompletionBody,
  prefix: string | readonly number[],
): FillInPrompt | readonly number[] {
  if (typeof prefix !== "string") return prefix;
  const files = extra?.map(({ filename, text }, index) => ({ name: filename ?? `file${index}`, text }));
  return { prefix, suffix: suffix ?? "", files };
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
