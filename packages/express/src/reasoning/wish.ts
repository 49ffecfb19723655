// How much a request wants the model to reason.

/** Efforts of OpenAI's APIs, as the share of the completion's tokens that reasoning may use at most. */
const SHARES = { none: 0, minimal: 0.1, low: 0.2, medium: 0.5, high: 0.8, xhigh: 0.95, max: 1 } as const;

export type ReasoningEffort = keyof typeof SHARES;
export const REASONING_EFFORTS = Object.keys(SHARES) as readonly ReasoningEffort[] as readonly [
  ReasoningEffort,
  ...ReasoningEffort[],
];

/** Fields of a request about reasoning. */
export interface ReasoningFields {
  readonly reasoning_effort?: ReasoningEffort | null | undefined;
  readonly thinking_token_budget?: number | null | undefined;
  readonly chat_template_kwargs?: Readonly<Record<string, unknown>> | null | undefined;
}

/** Wish of a request. */
export interface ReasoningWish {
  /** Largest number of tokens of reasoning. @default no limit of its own */
  readonly budgetTokens: number | undefined;
  /** Variables of the chat template. */
  readonly template: Readonly<Record<string, unknown>>;
}

/**
 * Returns a request's wish. Templates have no common name for the switch, so both usual ones are set; variables that
 * the request gives itself go first.
 *
 * @param maxTokens - limit of the completion's tokens
 */
export function reasoningWish(fields: ReasoningFields, maxTokens: number): ReasoningWish {
  const { reasoning_effort: effort, thinking_token_budget: budget, chat_template_kwargs: own } = fields;
  const isOff = effort === "none" || budget === 0 || own?.["enable_thinking"] === false || own?.["thinking"] === false;
  const isNamed = isOff || effort != null || budget != null;
  const switches = isNamed ? { enable_thinking: !isOff, thinking: !isOff } : {};
  const byEffort = effort == null || effort === "max" ? undefined : Math.floor(SHARES[effort] * maxTokens);
  const budgetTokens = isOff ? 0 : (budget ?? byEffort);
  return { budgetTokens, template: { ...switches, ...own } };
}
