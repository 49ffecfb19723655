import { randomUUID } from "node:crypto";
import type { Prompt } from "@readme-moe/core";
import type { GenerationPlan } from "../generation/plan.ts";
import { checkExpert, checkIds, completionLimit, invalid, samplingParams } from "../sampling.ts";
import type { CompletionBody } from "../schemas/completion-body.ts";
import { LIMITS } from "../../limits.ts";
import { unsupported } from "../schemas/read-body.ts";
import type { Lease } from "../../edge/served-models.ts";

const DEFAULT_MAX_TOKENS = 16;

/** @throws {ApiError} 400, on what does not go together, or not with this model */
export function planCompletion(body: CompletionBody, { engine, name }: Pick<Lease, "engine" | "name">): GenerationPlan {
  const { info } = engine;
  const logprobs = body.logprobs ?? undefined;
  if (body.echo && logprobs !== undefined)
    throw unsupported("echo", "'echo' is not supported together with 'logprobs'");
  const prompts = promptsOf(body.prompt);
  const choices = prompts.length * (body.n ?? 1);
  if (choices > LIMITS.choices.value)
    throw invalid("n", `expected at most ${LIMITS.choices.value} choices of all prompts, got ${choices}`);
  for (const [index, prompt] of prompts.entries()) {
    if (typeof prompt !== "string") checkIds(prompts.length > 1 ? `prompt[${index}]` : "prompt", prompt, info);
  }
  const include = body.read_me?.include ?? [];
  return {
    id: `cmpl-${randomUUID()}`,
    model: name,
    engine,
    prompts,
    promptParam: "prompt",
    params: {
      ...samplingParams(body, info),
      // One more than nothing, so that the chosen token's text comes along.
      logprobs: logprobs === undefined ? undefined : Math.max(1, logprobs),
      maxTokens: completionLimit(body.max_tokens ?? undefined, DEFAULT_MAX_TOKENS, body, info),
    },
    expert: checkExpert(body, info),
    priority: body.read_me?.priority ?? 0,
    includes: {
      routes: include.includes("routes"),
      timings: include.includes("timings"),
      usage: body.stream_options?.include_usage ?? false,
    },
  };
}

function promptsOf(prompt: CompletionBody["prompt"]): readonly (string | number[])[] {
  if (typeof prompt === "string") return [prompt];
  return isTokenIds(prompt) ? [prompt] : prompt;
}

function isTokenIds(prompt: readonly unknown[]): prompt is number[] {
  return typeof prompt[0] === "number";
}

/** The prompts' texts, for answers that begin with them. */
export async function echoesOf({ prompts, engine }: GenerationPlan): Promise<readonly string[]> {
  return Promise.all(
    prompts.map(async (prompt: Prompt) =>
      typeof prompt === "string" ? prompt : engine.detokenize(prompt as number[]),
    ),
  );
}
