// Servers of the same model: our middleware, and typical handlers around the peers.

import { namesOf, type SuiteContext } from "../kit/suite.ts";
import { LIBRARIES, readyPeers } from "../engine/peers.ts";
import { ourEngine, PLACES } from "../express/our-engine.ts";
import { type ServerProcess, startServer } from "../express/server-process.ts";

export interface ServerContender {
  readonly name: string;
  readonly start: () => Promise<ServerProcess>;
}

const CONTEXT_TOKENS = 256;

/** Lists servers, ours first. */
export async function serverContenders(context: SuiteContext): Promise<readonly ServerContender[]> {
  const { model, dense, threads } = context.settings;
  // Requests wait instead of being rejected; late answers are counted as late.
  const ours = (path: string) => () =>
    startServer("server.ts", { path, engine: ourEngine(context), admission: { maxRequests: 1024 } });
  const own: readonly ServerContender[] = [
    { name: dense === undefined ? "readme-moe" : "readme-moe dense", start: ours(dense ?? model) },
    ...(dense === undefined || dense === model ? [] : [{ name: "readme-moe experts", start: ours(model) }]),
  ];
  const wanted = namesOf(context.settings, "peers", ["transformers.js", "node-llama-cpp"]);
  const files = wanted.length > 0 ? await readyPeers(context) : undefined;
  if (!files) return own;
  const path = dense ?? model;
  const shared = { threads, places: PLACES, contextTokens: CONTEXT_TOKENS };
  const transformersJs = { ...shared, library: LIBRARIES.transformersJs, model: files.onnx, variant: "q8" };
  const llamaCpp = { ...shared, library: LIBRARIES.llamaCpp, model: files.gguf["Q8_0"] ?? "", variant: "Q8_0" };
  const peers: readonly (ServerContender & { readonly engine: string })[] = [
    {
      engine: "transformers.js",
      name: "transformers.js q8 in Express",
      start: () => startServer("peer-server.ts", { path, peer: transformersJs }),
    },
    {
      engine: "node-llama-cpp",
      name: "node-llama-cpp Q8_0 in Express",
      start: () => startServer("llama-server.ts", { path, peer: llamaCpp }),
    },
  ];
  return [...own, ...peers.filter(({ engine }) => wanted.includes(engine))];
}
