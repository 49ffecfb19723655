// A served engine as the API sees it, without a server.

import type { Engine, EngineInfo } from "@readme-moe/core";
import type { ExpertSource } from "../../packages/express/src/edge/experts.ts";

/** Serves an engine under a name, to a client that may name all experts. */
export function servedAs(
  model: string,
  engine: Engine,
  more: Partial<ExpertSource> = {},
): ExpertSource & { readonly model: string } {
  return { model, servedName: model, engine, namedExpert: undefined, mayName: () => true, ...more };
}

/** Serves an engine of which only the description is used. */
export function servedInfo(info: EngineInfo): ExpertSource {
  return servedAs("tiny", { info } as Engine);
}
