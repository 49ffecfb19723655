// Lists and descriptions of models in Ollama's API.

import { createHash } from "node:crypto";
import type { EngineInfo } from "@readme-moe/core";
import { checkBody } from "../api/check-body.ts";
import { visibleNames, type VisibleName } from "../api/other-routes.ts";
import { sendRead } from "../api/reads.ts";
import type { RequestParts } from "../api/serve-generation.ts";
import { invalid } from "../http/errors.ts";
import { SAMPLING_FALLBACKS } from "./defaults.ts";
import { infoOf, servedName, taggedName } from "./named-model.ts";
import { ollamaShowBody } from "./request-schemas.ts";

/** Version of Ollama's API that these routes follow; clients refuse older ones. */
const VERSION = "0.12.6";

/** Models stay loaded: Ollama writes a time as far away as this where `keep_alive` is negative. */
const NEVER = "2318-01-01T00:00:00Z";

/** Width of the names in `parameters`, as Ollama writes them. */
const NAME_WIDTH = 30;

/** Answers `GET /api/tags`. */
export function ollamaModels(parts: RequestParts): Promise<void> {
  return sendRead(parts, () => ({ models: visibleNames(parts.serving, parts.response).map(modelOf) }));
}

/** Answers `GET /api/ps`. */
export function ollamaRunning(parts: RequestParts): Promise<void> {
  return sendRead(parts, () => ({
    models: visibleNames(parts.serving, parts.response).map((named) => ({
      ...modelOf(named),
      expires_at: NEVER,
      size_vram: 0,
      context_length: named.served.engine.info.contextTokens,
    })),
  }));
}

function modelOf({ id, served: { createdMs, engine } }: VisibleName): object {
  const { info } = engine;
  const name = taggedName(id);
  return {
    name,
    model: name,
    modified_at: new Date(createdMs).toISOString(),
    size: info.weightBytes ?? 0,
    digest: info.modelVersion ?? createHash("sha256").update(info.path).digest("hex"),
    details: detailsOf(info),
  };
}

/** Answers `POST /api/show`. */
export async function ollamaShow(parts: RequestParts): Promise<void> {
  const { serving, request, response } = parts;
  const body = checkBody(ollamaShowBody, request.body);
  const model = body.model ?? body.name;
  if (model == null) throw invalid("model", "is missing");
  const info = await infoOf(model, parts);
  const name = servedName(model, parts);
  const createdMs = visibleNames(serving, response).find(({ id }) => id === name)?.served.createdMs ?? 0;
  const generates = info.task === "generate";
  await sendRead(parts, () => ({
    modelfile: "",
    parameters: generates ? parametersOf(info) : "",
    template: "",
    modified_at: new Date(createdMs).toISOString(),
    details: detailsOf(info),
    model_info: {
      "general.architecture": info.modelType,
      [`${info.modelType}.context_length`]: info.contextTokens,
      ...(info.embedding ? { [`${info.modelType}.embedding_length`]: info.embedding.dimensions } : {}),
    },
    capabilities: [
      ...(generates ? ["completion"] : []),
      ...(generates && info.hasChatTemplate ? ["tools"] : []),
      ...(generates && info.reasons ? ["thinking"] : []),
      ...(info.task === "embed" ? ["embedding"] : []),
    ],
  }));
}

/** Lists the parameters of requests without `options`, one on a line. */
function parametersOf({ contextTokens, samplingDefaults }: EngineInfo): string {
  const {
    temperature,
    topK,
    topP,
    minP,
    repetitionPenalty,
    stop = [],
  } = { ...SAMPLING_FALLBACKS, ...samplingDefaults };
  const named = {
    num_ctx: contextTokens,
    temperature,
    top_k: topK,
    top_p: topP,
    min_p: minP,
    repeat_penalty: repetitionPenalty,
  };
  const numbers = Object.entries(named).filter(([, value]) => value !== undefined);
  const texts = [stop].flat().map((text) => ["stop", JSON.stringify(text)] as const);
  return [...numbers, ...texts].map(([name, value]) => `${name.padEnd(NAME_WIDTH)} ${value}`).join("\n");
}

/** Answers `GET /api/version`. */
export function ollamaVersion(parts: RequestParts): Promise<void> {
  return sendRead(parts, () => ({ version: VERSION }));
}

function detailsOf({ modelType: family, precision }: EngineInfo): object {
  return {
    parent_model: "",
    format: "",
    family,
    families: [family],
    parameter_size: "",
    quantization_level: precision,
  };
}
