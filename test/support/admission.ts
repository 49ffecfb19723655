// Requests and loads for tests of admission.

import type { Admission, Entrant } from "@readme-moe/express";

export const NOTHING = { requests: 0, waiting: 0, tokens: 0, bytes: 0 };

export function entrant(options: Partial<Entrant> = {}): Entrant {
  const signal = new AbortController().signal;
  return { bytes: 10, maxCompletionTokens: 5, choices: 1, key: undefined, priority: 0, signal, ...options };
}

/** Returns the load without the limits. */
export function loads({ stats: { requests, waiting, tokens, bytes } }: Admission): typeof NOTHING {
  return { requests, waiting, tokens, bytes };
}
