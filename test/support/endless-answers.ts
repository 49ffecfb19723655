// Free answers that are as long as their limit, whichever model gives them.

import type { Engine } from "@readme-moe/core";
import type { OnRequest } from "@readme-moe/express";

/** Parameters that keep answers from ending early: for the engine, and for a server over it. */
export interface EndlessAnswers {
  /** Forbids the end token. */
  readonly logitBias: Record<string, number>;
  /** Adds the bias to requests for free answers; those that are bound to a form must be able to end. */
  readonly onRequest: OnRequest;
}

export async function endlessAnswers(engine: Pick<Engine, "vocabulary">): Promise<EndlessAnswers> {
  const { eosTokenIds } = await engine.vocabulary();
  const logitBias = Object.fromEntries(eosTokenIds.map((id) => [id, -100]));
  return {
    logitBias,
    onRequest: (body) => {
      const isBound = ("response_format" in body && body.response_format) || ("tools" in body && body.tools);
      const isFree = ("messages" in body || "prompt" in body) && !isBound;
      return isFree ? { ...body, logit_bias: logitBias } : body;
    },
  };
}
