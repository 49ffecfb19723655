// Those that our engine is measured against, made ready: installed, and with files of the same weights.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { openModel, resolveCacheFolder } from "@readme-moe/model";
import { type ContenderSpec, namesOf, type SuiteContext } from "readme-moe/bench";
import { installPeers } from "./install-peers.ts";
import { preparePeerFiles } from "./prepare.ts";

const ROOT = join(import.meta.dirname, "..", "..");
const PEERS = join(ROOT, "bench", "peers");
/** Compiled by `npm run bench`: see `contenders/tsconfig.json`. */
const COMPILED = join(ROOT, "node_modules", ".cache", "bench-contenders");
export const LIBRARIES = {
  transformersJs: join(PEERS, "node_modules/@huggingface/transformers/dist/transformers.node.mjs"),
  llamaCpp: join(PEERS, "node_modules/node-llama-cpp/dist/index.js"),
  xenova: join(ROOT, "node_modules/@xenova/transformers/src/transformers.js"),
} as const;

/** Files of one dense model, as the peers read them. */
export interface PeerFiles {
  /** The exported folder. */
  readonly onnx: string;
  /** GGUF files by their type, such as Q8_0. */
  readonly gguf: Readonly<Record<string, string>>;
}

function compiled(name: string): string {
  return pathToFileURL(join(COMPILED, `${name}.js`)).href;
}

/** `undefined` where there is only a mixture, which peers do not run. */
export async function readyPeers({ settings, say }: SuiteContext): Promise<PeerFiles | undefined> {
  const model = await openModel(settings.dense ?? settings.model);
  try {
    if (model.kind !== "dense") {
      say("peers run no mixtures; name the dense model with --dense to have them run that");
      return undefined;
    }
    await installPeers(PEERS, say);
    return await preparePeerFiles(model, resolveCacheFolder(settings.cacheFolder), say);
  } finally {
    await model.close();
  }
}

/** `--set peers=` leaves them out; `--set dtypes=q8` takes some of the exported. */
export async function enginePeers(context: SuiteContext): Promise<readonly ContenderSpec[]> {
  const { settings } = context;
  const engines = namesOf(settings, "peers", ["transformers.js", "node-llama-cpp", "xenova"]);
  if (engines.length === 0) return [];
  const files = await readyPeers(context);
  if (!files) return [];
  const { onnx, gguf } = files;
  const onnxSpec = (engine: string, module: string, library: string) => (variant: string) => ({
    engine,
    variant,
    module: compiled(module),
    files: { library, model: onnx },
  });
  const dtypes = namesOf(settings, "dtypes", ["fp32", "q8", "q4"]);
  const all: readonly ContenderSpec[] = [
    ...dtypes.map(onnxSpec("transformers.js", "transformersjs", LIBRARIES.transformersJs)),
    ...Object.entries(gguf).map(([variant, model]) => ({
      engine: "node-llama-cpp",
      variant,
      module: compiled("llama-cpp"),
      files: { library: LIBRARIES.llamaCpp, model },
    })),
    // It answers one after the other, so that more at once tell nothing more.
    ...["q8"].map(onnxSpec("xenova", "xenova", LIBRARIES.xenova)).map((spec) => ({ ...spec, maxConcurrency: 8 })),
  ];
  return all.filter(({ engine }) => engines.includes(engine));
}

/** As the lockfiles pin them. */
export function peerVersions(): Readonly<Record<string, string>> {
  const peers = pinnedIn(join(PEERS, "package.json"));
  const own = pinnedIn(join(ROOT, "package.json"));
  const versions = {
    "@huggingface/transformers": peers["@huggingface/transformers"],
    "node-llama-cpp": peers["node-llama-cpp"],
    "@xenova/transformers": own["@xenova/transformers"],
    express: own["express"],
  };
  return Object.fromEntries(Object.entries(versions).flatMap(([name, version]) => (version ? [[name, version]] : [])));
}

function pinnedIn(path: string): Readonly<Record<string, string>> {
  const { dependencies = {}, devDependencies = {} } = JSON.parse(readFileSync(path, "utf8")) as Manifest;
  return { ...devDependencies, ...dependencies };
}

interface Manifest {
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly devDependencies?: Readonly<Record<string, string>>;
}
