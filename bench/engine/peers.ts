// Prepares the peers of our engine: installs them, and writes files with the same weights.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type Model, openModel, resolveCacheFolder } from "@readme-moe/model";
import type { ContenderSpec } from "./contender.ts";
import { namesOf, type SuiteContext } from "../kit/suite.ts";
import { compiled } from "./contender-process.ts";
import { installPeers } from "./install-peers.ts";
import { type OpenVinoFormat, readyOpenVino } from "./openvino.ts";
import { peerFolder, type PeerFiles, preparePeerFiles } from "./prepare.ts";
import { pinnedPackages } from "./python-environment.ts";

const ROOT = join(import.meta.dirname, "..", "..");
const PEERS = join(ROOT, "bench", "peers");
const OPENVINO_PACKAGES = join(PEERS, "openvino.txt");
const NODE_PEERS: readonly string[] = ["transformers.js", "node-llama-cpp", "xenova"];
const OPENVINO = "openvino";
export const LIBRARIES = {
  transformersJs: join(PEERS, "node_modules/@huggingface/transformers/dist/transformers.node.mjs"),
  llamaCpp: join(PEERS, "node_modules/node-llama-cpp/dist/index.js"),
  xenova: join(ROOT, "node_modules/@xenova/transformers/src/transformers.js"),
} as const;

/** Writes files for the peers and installs those that run in Node. @returns `undefined` without a dense model */
export async function readyPeers(context: SuiteContext): Promise<PeerFiles | undefined> {
  return withDense(context, async (model) => {
    await installPeers(PEERS, context.say);
    const cacheFolder = resolveCacheFolder(context.settings.cacheFolder);
    return preparePeerFiles(model, cacheFolder, { say: context.say, needsExport: true });
  });
}

/** Installs the peers that run in Node. @returns the module of node-llama-cpp */
export async function installedLlamaCpp(say: (what: string) => void): Promise<string> {
  await installPeers(PEERS, say);
  return LIBRARIES.llamaCpp;
}

/** Runs `work` with the dense model: peers do not run mixtures. */
async function withDense<Result>(
  { settings, say }: SuiteContext,
  work: (model: Model) => Promise<Result>,
): Promise<Result | undefined> {
  const model = await openModel(settings.dense ?? settings.model);
  try {
    if (model.kind === "dense") return await work(model);
    say("peers do not run mixtures; name the dense model with --dense to measure them");
    return undefined;
  } finally {
    await model.close();
  }
}

/** Prepares the peers. `--set peers=` leaves them out; `--set dtypes=q8` selects some of the exported types. */
export async function enginePeers(context: SuiteContext): Promise<readonly ContenderSpec[]> {
  const engines = namesOf(context.settings, "peers", [...NODE_PEERS, OPENVINO]);
  if (engines.length === 0) return [];
  const specs = await withDense(context, async (model) => {
    const cacheFolder = resolveCacheFolder(context.settings.cacheFolder);
    const needsExport = engines.some((name) => ["transformers.js", "xenova"].includes(name));
    const inNode = engines.some((name) => NODE_PEERS.includes(name))
      ? await nodePeers(context, await preparePeerFiles(model, cacheFolder, { say: context.say, needsExport }))
      : [];
    return [...inNode, ...(engines.includes(OPENVINO) ? await openVinoPeers(context, model, "int8") : [])];
  });
  return (specs ?? []).filter(({ engine }) => engines.includes(engine));
}

async function nodePeers(context: SuiteContext, { onnx, gguf }: PeerFiles): Promise<readonly ContenderSpec[]> {
  await installPeers(PEERS, context.say);
  const onnxSpec = (engine: string, module: string, library: string) => (variant: string) => ({
    engine,
    variant,
    module: compiled(`contenders/${module}`).href,
    files: { library, model: onnx },
  });
  const dtypes = namesOf(context.settings, "dtypes", ["fp32", "q8", "q4"]);
  return [
    ...dtypes.map(onnxSpec("transformers.js", "transformersjs", LIBRARIES.transformersJs)),
    ...Object.entries(gguf).map(([variant, model]) => llamaCppPeer(variant, model)),
    // It answers one request after the other, so more concurrent ones add nothing.
    ...["q8"].map(onnxSpec("xenova", "xenova", LIBRARIES.xenova)).map((spec) => ({ ...spec, maxConcurrency: 8 })),
  ];
}

function llamaCppPeer(variant: string, model: string): ContenderSpec {
  const module = compiled("contenders/llama-cpp").href;
  return { engine: "node-llama-cpp", variant, module, files: { library: LIBRARIES.llamaCpp, model } };
}

/** Prepares node-llama-cpp with a GGUF file as it is, and OpenVINO if `--set peers=` names it. */
export async function filePeers(context: SuiteContext, path: string): Promise<readonly ContenderSpec[]> {
  const engines = namesOf(context.settings, "peers", ["node-llama-cpp"]);
  const specs: ContenderSpec[] = [];
  if (engines.includes("node-llama-cpp")) {
    await installPeers(PEERS, context.say);
    specs.push(llamaCppPeer("file", path));
  }
  if (engines.includes(OPENVINO)) {
    specs.push(...((await withDense(context, (model) => openVinoPeers(context, model, "int4"))) ?? []));
  }
  return specs;
}

/** Prepares OpenVINO with the model's weights in float32, which its exporter rounds. Empty when it is not there. */
async function openVinoPeers(context: SuiteContext, model: Model, format: OpenVinoFormat): Promise<ContenderSpec[]> {
  const cacheFolder = resolveCacheFolder(context.settings.cacheFolder);
  const environment = join(cacheFolder, "bench", "openvino");
  const models = await peerFolder(model, cacheFolder);
  const places = { requirements: OPENVINO_PACKAGES, environment, models, format };
  const files = await readyOpenVino(model, places, context);
  const script = join(import.meta.dirname, "contenders", "openvino-process.py");
  const module = compiled("contenders/openvino").href;
  return files ? [{ engine: OPENVINO, variant: format, module, files: { ...files, script } }] : [];
}

/** Lists the pinned versions. */
export function peerVersions(): Readonly<Record<string, string>> {
  const peers = pinnedIn(join(PEERS, "package.json"));
  const own = pinnedIn(join(ROOT, "package.json"));
  const versions = {
    "@huggingface/transformers": peers["@huggingface/transformers"],
    "node-llama-cpp": peers["node-llama-cpp"],
    "@xenova/transformers": own["@xenova/transformers"],
    "openvino-genai": pinnedPackages(readFileSync(OPENVINO_PACKAGES, "utf8"))["openvino-genai"],
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
