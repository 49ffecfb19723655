// Models that can answer a request, by the task that they were made for.

import type { Engine, ModelTask } from "@readme-moe/core";
import { ApiError } from "../http/errors.ts";
import type { ServedModels } from "./served-models.ts";

/** Names of models that a message lists. */
const MAX_NAMES = 20;

const DOES: Readonly<Record<ModelTask, string>> = {
  generate: "generates text",
  embed: "gives embeddings",
  rerank: "scores documents",
};

/**
 * Checks that a model was made for a request.
 *
 * @param served - all models, of which the message names those that can
 * @throws {ApiError} 400 `model_not_capable`
 */
export function requireTask(
  task: ModelTask,
  { engine, model }: { readonly engine: Engine; readonly model: string },
  served: Pick<ServedModels, "list">,
): void {
  const { task: own } = engine.info;
  if (own === task) return;
  const capable = served.list().flatMap(({ name, engine: { info } }) => (info.task === task ? [`\`${name}\``] : []));
  const more = capable.length > MAX_NAMES ? ` and ${capable.length - MAX_NAMES} more` : "";
  const which =
    capable.length === 0 ? "no served model" : `of the served models ${capable.slice(0, MAX_NAMES).join(", ")}${more}`;
  const message = `The model \`${model.slice(0, 200)}\` ${DOES[own]}; ${which} ${DOES[task]}.`;
  throw new ApiError({
    status: 400,
    type: "invalid_request_error",
    code: "model_not_capable",
    param: "model",
    message,
  });
}
