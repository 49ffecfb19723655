// Both generations of transformers.js, and the pocket model in the two forms that they and the adapter load.

import { cp, writeFile } from "node:fs/promises";
import { join } from "node:path";
import * as huggingface from "@huggingface/transformers";
import { createPipeline, type AdapterOptions, type HostLike } from "@readme-moe/adapter";
import { openModel } from "@readme-moe/model";
import { exportTransformersJs } from "@readme-moe/refactor";
import * as xenova from "@xenova/transformers";
import { POCKET } from "./pocket.ts";

export const HOSTS = { huggingface, xenova } as const;

export type HostName = keyof typeof HOSTS;

/** Options of both generations for float32. */
export const FP32 = { dtype: "fp32", quantized: false } as const;

const TEMPLATE =
  "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}" +
  "{% if add_generation_prompt %}[assistant]{% endif %}";

/** A pipeline for text generation, of whichever host. */
export interface Generator {
  (texts: unknown, options?: object): Promise<unknown>;
  readonly model: object;
  readonly tokenizer: object;
  dispose(): Promise<unknown>;
}

/** The older host finds models at absolute paths only when it is told that models lie there. */
export function findAnywhere(): void {
  xenova.env.localModelPath = "";
  for (const { env } of Object.values(HOSTS)) env.allowRemoteModels = false;
}

/** The host's own pipeline, on ONNX files. */
export async function hostGenerator(name: HostName, path: string): Promise<Generator> {
  const { pipeline } = HOSTS[name] as unknown as { pipeline: (...args: unknown[]) => Promise<Generator> };
  return pipeline("text-generation", path, FP32);
}

/** The adapter's, on a dense folder. */
export async function ourGenerator(name: HostName, path: string, options: AdapterOptions = {}): Promise<Generator> {
  const pipeline = createPipeline(HOSTS[name] as unknown as HostLike);
  const generate: unknown = await pipeline("text-generation", path, { ...FP32, ...options });
  return generate as Generator;
}

/** The pocket model with a chat template, or `model` as it is: dense, and exported for the hosts. */
export async function writeTwins(
  folder: string,
  model?: string,
): Promise<{ readonly dense: string; readonly exported: string }> {
  const [dense, exported] = [model ?? join(folder, "dense"), join(folder, "exported")];
  if (model === undefined) {
    await cp(POCKET, dense, { recursive: true, filter: (path) => !path.includes("calibration") });
    await writeFile(join(dense, "chat_template.jinja"), TEMPLATE);
  }
  const opened = await openModel(dense);
  await exportTransformersJs(opened, exported, { dtypes: ["fp32"] });
  await opened.close();
  return { dense, exported };
}
