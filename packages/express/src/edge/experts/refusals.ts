// Answers to requests that name experts wrongly, and to operators' requests. Messages and statuses for operators are
// those of vLLM.

import { ApiError, badRequest } from "../../http/errors.ts";
import { joinExpertId, type ExpertId } from "./model-ids.ts";

/** Names that a message lists. */
const MAX_NAMES = 20;

/** @param names - experts that the client may name */
export function unknownExpert({ model, expert }: ExpertId, names: readonly string[]): ApiError {
  const id = joinExpertId({ model, expert: expert.slice(0, 200) });
  const listed = names.slice(0, MAX_NAMES).map((name) => `\`${joinExpertId({ model, expert: name })}\``);
  const more = names.length > MAX_NAMES ? ` and ${names.length - MAX_NAMES} more` : "";
  const known = names.length === 0 ? "it has no experts that can be named" : `known are ${listed.join(", ")}${more}`;
  return modelNotFound(`The model \`${id}\` does not exist or you do not have access to it; ${known}.`);
}

/** Creates the error of a request whose expert was unloaded after the request had arrived. */
export function expertGone(expert: string): ApiError {
  return modelNotFound(`The expert \`${expert}\` was unloaded.`);
}

function modelNotFound(message: string): ApiError {
  return new ApiError({ status: 404, type: "invalid_request_error", code: "model_not_found", param: "model", message });
}

export function adapterExists(name: string): ApiError {
  const message = `The lora adapter '${name}' has already been loaded.`;
  return new ApiError({ status: 400, type: "InvalidUserInput", code: "adapter_exists", param: "lora_name", message });
}

export function adapterNotFound(name: string): ApiError {
  const message = `The lora adapter '${name}' cannot be found.`;
  return new ApiError({ status: 404, type: "NotFoundError", code: "adapter_not_found", param: "lora_name", message });
}

export function folderNotFound(path: string): ApiError {
  const message = `No adapter found for '${path}'.`;
  return new ApiError({ status: 404, type: "NotFoundError", code: "adapter_not_found", param: "lora_path", message });
}

export function forbiddenPath(): ApiError {
  const message = "Expected 'lora_path' to be a name below the server's folder of experts.";
  const details = { type: "invalid_request_error", code: "forbidden_path", param: "lora_path", message } as const;
  return new ApiError({ status: 403, ...details });
}

export function noAdapters(): ApiError {
  return badRequest({ message: "This model takes no LoRA adapters.", code: "invalid_value", param: "lora_name" });
}

export function namesModel(id: string): ApiError {
  const message = `Expected the name of an expert, but '${id.slice(0, 200)}' is the name of a model.`;
  return badRequest({ message, code: "invalid_value", param: "lora_name" });
}
