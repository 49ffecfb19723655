import { completionBody, type CompletionBody } from "../schemas/completion-body.ts";
import type { GenerationApi } from "../serve-generation.ts";
import { completionShape, type CompletionChoice } from "./completion-shape.ts";
import { echoesOf, planCompletion } from "./plan-completion.ts";

export const completionApi: GenerationApi<CompletionBody, CompletionChoice> = {
  endpoint: "/v1/completions",
  schema: completionBody,
  plan: planCompletion,
  prepare: async (plan, body) => ({
    plan,
    shape: completionShape({
      engine: plan.engine,
      logprobs: body.logprobs ?? undefined,
      includesRoutes: plan.includes.routes,
      echoes: body.echo ? await echoesOf(plan) : undefined,
    }),
  }),
};
