import type { Request, Response } from "express";
import { ApiError } from "../http/api-error.ts";
import type { ModelAnswer } from "./schemas/answers.ts";
import type { ServedModel, ServedModels } from "../edge/served-models.ts";

export function listModels(models: ServedModels, response: Response): void {
  response.json({ object: "list", data: models.list().flatMap(namesOf) });
}

export function showModel(models: ServedModels, request: Request, response: Response): void {
  // Names may have slashes, as on the hub.
  const wanted = [request.params["id"]].flat().join("/");
  const found = models
    .list()
    .flatMap(namesOf)
    .find(({ id }) => id === wanted);
  if (found) {
    response.json(found);
    return;
  }
  const message = `The model '${wanted.slice(0, 200)}' does not exist`;
  throw new ApiError({ status: 404, type: "invalid_request_error", code: "model_not_found", param: "model", message });
}

/** A model, and the same under its other names. */
function namesOf({ name, aliases, createdMs, engine }: ServedModel): readonly ModelAnswer[] {
  return [name, ...aliases].map((id) => ({
    id,
    object: "model",
    created: Math.floor(createdMs / 1000),
    owned_by: "readme-moe",
    root: name,
    max_model_len: engine.info.contextTokens,
  }));
}
