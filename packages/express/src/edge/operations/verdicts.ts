// What the three routes of health say: decided from how models are, and nothing else.

import type { ModelCondition } from "../served-models.ts";

/** One route's answer: 200, or 503 with a message. */
export type Verdict = { readonly isGood: true } | { readonly isGood: false; readonly message: string };

export interface Verdicts {
  /** Every model works. */
  readonly health: Verdict;
  /** Requests may be sent here. */
  readonly ready: Verdict;
  /** Nothing would be better if the process were started anew. */
  readonly live: Verdict;
}

/** How a model is, and whether its engine has not answered for too long. */
export interface JudgedModel extends ModelCondition {
  readonly isHung: boolean;
}

const GOOD: Verdict = { isGood: true };

/** @param models - all that are served, one or more */
export function verdicts(models: readonly JudgedModel[], isDraining: boolean): Verdicts {
  const working = models.filter((model) => model.state === "ready" && !model.isHung);
  return {
    health: working.length === models.length ? GOOD : bad(troubleOf(models)),
    ready: isDraining ? bad("Shutting down") : working.length > 0 ? GOOD : bad(`No model is ready: ${listed(models)}`),
    live: livenessOf(models),
  };
}

/** What is being loaded comes last: it becomes right by itself. */
function troubleOf(models: readonly JudgedModel[]): string {
  const troubled = models.filter(({ state, isHung }) => isHung || (state !== "ready" && state !== "loading"));
  // The words that llama.cpp's clients wait for.
  return troubled.length === 0 ? "Loading model" : listed(troubled);
}

/** An engine that is being loaded or opened again needs no other process. */
function livenessOf(models: readonly JudgedModel[]): Verdict {
  const lost = models.filter(({ state, isHung }) => isHung || state === "failing" || state === "failed");
  return lost.length === 0 ? GOOD : bad(listed(lost));
}

function listed(models: readonly JudgedModel[]): string {
  return models.map((model) => `the model ${model.name} ${described(model)}`).join("; ");
}

function described({ state, code, isHung }: JudgedModel): string {
  const because = code === undefined ? "" : ` (${code})`;
  if (isHung && (state === "ready" || state === "failing")) return "does not answer";
  switch (state) {
    case "loading":
      return "is being loaded";
    case "ready":
      return "works";
    case "failing":
      return `fails its requests${because}`;
    case "restarting":
      return `has failed and is being opened again${because}`;
    case "failed":
      return `has failed${because}`;
    default:
      throw new TypeError(`Unknown state: ${String(state satisfies never)}`);
  }
}

function bad(message: string): Verdict {
  return { isGood: false, message: message.charAt(0).toUpperCase() + message.slice(1) };
}
