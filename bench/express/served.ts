// Model and load of all parts of the suite.

import { numbersOf, type SuiteContext } from "../kit/suite.ts";

/** Answers that run concurrently. */
const BATCH = 8;

export interface Served {
  readonly path: string;
  readonly batch: number;
  /** Mean tokens of an answer. */
  readonly tokens: number;
}

export function servedOf({ settings }: SuiteContext): Served {
  const [batch = BATCH] = numbersOf(settings, "batch", [BATCH]);
  const [tokens = 32] = numbersOf(settings, "tokens", [settings.quick ? 8 : 32]);
  return { path: settings.dense ?? settings.model, batch, tokens };
}
