// Models by the names of Ollama's API, which end with a tag.

import type { EngineInfo } from "@readme-moe/core";
import { Exchange } from "../api/exchange.ts";
import { visibleNames } from "../api/other-routes.ts";
import type { RequestParts } from "../api/serve-generation.ts";
import { clientSignal } from "../http/request.ts";

const TAG = ":latest";

/** Adds the tag that names without one have in lists: some clients add it to every name, and look for the result. */
export function taggedName(id: string): string {
  return id.includes(":") ? id : `${id}${TAG}`;
}

/** Returns the served name of a model: clients add the tag to names without one. */
export function servedName(model: string, { serving, response }: Pick<RequestParts, "serving" | "response">): string {
  const isServed = visibleNames(serving, response).some(({ id }) => id === model);
  return isServed || !model.endsWith(TAG) ? model : model.slice(0, -TAG.length);
}

/** Describes the engine that would answer a request. @throws {ApiError} as `ServedModels.lease` */
export async function infoOf(model: string, parts: RequestParts): Promise<EngineInfo> {
  const body = { model: servedName(model, parts) };
  const asked = { ...parts, body, signal: clientSignal(parts.response) };
  return Exchange.run(asked, async ({ engine: { info } }) => info);
}
