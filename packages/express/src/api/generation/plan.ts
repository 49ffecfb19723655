import type { Engine, ProcessLogits, Prompt, SamplingParams } from "@readme-moe/core";

/** What an engine is to do for one request of a client. */
export interface GenerationPlan {
  /** Of the answer. */
  readonly id: string;
  /** Name of the model as clients know it. */
  readonly model: string;
  readonly engine: Engine;
  readonly prompts: readonly Prompt[];
  /** The parameter that holds the prompts. */
  readonly promptParam: "messages" | "prompt";
  readonly params: SamplingParams & { readonly maxTokens: number };
  readonly expert: string | number | undefined;
  readonly priority: number;
  /** Whose request it is, for fair shares of the engine. */
  readonly client?: string | undefined;
  readonly processLogits?: ProcessLogits | undefined;
  readonly includes: { readonly routes: boolean; readonly timings: boolean; readonly usage: boolean };
}

export function numChoices({ prompts, params }: Pick<GenerationPlan, "prompts" | "params">): number {
  return prompts.length * (params.n ?? 1);
}
