import type { Usage } from "@readme-moe/core";
import type { UsageAnswer } from "../schemas/answers.ts";

/** @param usages - of each prompt */
export function usageAnswer(usages: readonly Usage[]): UsageAnswer {
  const sum = (count: (usage: Usage) => number): number => usages.reduce((total, usage) => total + count(usage), 0);
  const [promptTokens, completionTokens] = [sum((usage) => usage.promptTokens), sum((usage) => usage.completionTokens)];
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    // An engine counts what each choice found; a prompt has no more tokens than it has.
    prompt_tokens_details: { cached_tokens: sum((usage) => Math.min(usage.cachedTokens, usage.promptTokens)) },
  };
}
