// The state of a model as operators see it.

import type { Engine } from "@readme-moe/core";
import { ApiError, engineError } from "../../http/errors.ts";

/** States of a model, in the order of its life. */
export const MODEL_STATES = ["loading", "ready", "waiting", "failing", "restarting", "failed"] as const;

/**
 * State of a model. `loading`: not open yet. `waiting`: the engine works, and lacks what it would answer with, such as
 * a machine of its fleet. `failing`: the engine runs, and has failed several requests in a row.
 * `restarting`: the engine has failed, and is opened again. `failed`: it could not be opened, or has failed for good.
 */
export type ModelState = (typeof MODEL_STATES)[number];

/** State of a model. */
export interface ModelCondition {
  readonly name: string;
  readonly state: ModelState;
  /** Code of the error that keeps it from being ready. */
  readonly code?: string;
  /** Message of the error that its requests get at this time. */
  readonly message?: string;
}

/** Describes a model by the state of its engine, and by what a working engine lacks. */
export function conditionOf(
  { name, state, code }: { readonly name: string; readonly state: ModelState; readonly code: string | undefined },
  engine: Engine | undefined,
): ModelCondition {
  const lack = state === "ready" ? engine?.unavailable : undefined;
  if (!engine || !lack) return { name, state, ...(code !== undefined && { code }) };
  const shown = engineError(lack, "prompt", engine.info);
  return { name, state: "waiting", code: lack.code, ...(shown instanceof ApiError && { message: shown.message }) };
}
