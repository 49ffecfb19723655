// Files of the peers, made of the same weights on first use and kept in the cache folder.

import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { GgufFile, type Model } from "@readme-moe/model";
import { exportTransformersJs } from "@readme-moe/refactor";
import { exists } from "./exists.ts";
import { writeQ8Gguf } from "../../test/support/gguf/convert-model.ts";

// Version of these files.
const VERSION = 1;

/** Files of one dense model in the formats of the peers. */
export interface PeerFiles {
  /** Folder of all files of the model. */
  readonly folder: string;
  /** Folder exported for transformers.js. */
  readonly onnx: string;
  /** GGUF files by their type, such as Q8_0. */
  readonly gguf: Readonly<Record<string, string>>;
}

interface PrepareOptions {
  /** Called before slow work. */
  readonly say: (what: string) => void;
  /** Whether a peer reads the folder that is exported for transformers.js. */
  readonly needsExport: boolean;
}

/** Makes the folder of a model's files for peers. */
export async function peerFolder(model: Model, cacheFolder: string): Promise<string> {
  const fingerprint = await model.fingerprint(cacheFolder);
  const folder = join(cacheFolder, "bench", `${fingerprint.slice(0, 40)}-${VERSION}`);
  await mkdir(folder, { recursive: true });
  return folder;
}

export async function preparePeerFiles(
  model: Model,
  cacheFolder: string,
  { say, needsExport }: PrepareOptions,
): Promise<PeerFiles> {
  const folder = await peerFolder(model, cacheFolder);
  const onnx = join(folder, "onnx");
  if (needsExport && !(await exists(onnx))) {
    say("exporting for transformers.js, once");
    await exportTransformersJs(model, onnx);
  }
  const own = await ownGguf(model);
  if (own["Q8_0"] !== undefined) return { folder, onnx, gguf: own };
  const q8 = join(folder, "model.Q8_0.gguf");
  if (!(await exists(q8))) {
    say("writing Q8_0 for node-llama-cpp, once");
    await writeQ8Gguf(model, q8);
  }
  return { folder, onnx, gguf: { Q8_0: q8, ...own } };
}

/** Returns a model that is a GGUF file already, under the type of most of its tensors. */
async function ownGguf({ path }: Model): Promise<Readonly<Record<string, string>>> {
  if (!path.toLowerCase().endsWith(".gguf")) return {};
  const file = await GgufFile.open(path);
  await file.close();
  const counts = new Map<string, number>();
  for (const { type, shape } of file.tensors.values()) {
    if (shape.length === 2 && type !== undefined) counts.set(type.name, (counts.get(type.name) ?? 0) + 1);
  }
  const [most] = Array.from(counts).toSorted(([, a], [, b]) => b - a);
  return most ? { [most[0]]: path } : {};
}
