// Prepares OpenVINO GenAI: its Python packages, and the model exported by its own exporter.

import { mkdir, mkdtemp, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Model } from "@readme-moe/model";
import type { SuiteContext } from "../kit/suite.ts";
import { writeDenseFolder } from "./dense-folder.ts";
import { exists } from "./exists.ts";
import { pythonEnvironment } from "./python-environment.ts";
import { runQuietly } from "./run-quietly.ts";

interface OpenVinoFiles {
  /** Python interpreter of the environment. */
  readonly python: string;
  /** Folder of the exported model. */
  readonly model: string;
}

/**
 * The exporter's own choices: "int8" has a scale and a zero point for each row, "int4" for each 128 inputs of a row,
 * with embeddings and the head in int8.
 */
export type OpenVinoFormat = "int8" | "int4";

export interface OpenVinoPlaces {
  readonly requirements: string;
  /** Folder of the Python environment. */
  readonly environment: string;
  /** Folder of this model's exports. */
  readonly models: string;
  readonly format: OpenVinoFormat;
  /** @default "python3" */
  readonly python?: string;
}

// No hub is used, and no tokenizer is converted: prompts are token ids.
const OFFLINE = { HF_HUB_OFFLINE: "1", TRANSFORMERS_OFFLINE: "1" };
const EXPORT = ["export", "openvino", "--task", "text-generation-with-past"];

/** Prepares it, or prints in one line why it is left out: the other peers are measured without it. */
export async function readyOpenVino(
  model: Model,
  places: OpenVinoPlaces,
  { say, signal }: Pick<SuiteContext, "say" | "signal">,
): Promise<OpenVinoFiles | undefined> {
  try {
    const { requirements, environment: folder } = places;
    const interpreter = places.python === undefined ? {} : { python: places.python };
    const programs = await pythonEnvironment({ requirements, folder, say, signal, ...interpreter });
    const exported = join(places.models, `openvino-${places.format}`);
    if (!(await exists(exported))) {
      say("exporting for OpenVINO, once; this takes minutes");
      const exporter = join(programs, "optimum-cli");
      await exportOpenVino(model, exported, places, (args) => runQuietly(exporter, args, { env: OFFLINE, signal }));
    }
    return { python: join(programs, "python"), model: exported };
  } catch (error) {
    signal?.throwIfAborted();
    say(`OpenVINO is left out: ${error instanceof Error ? error.message : String(error)}`);
    return undefined;
  }
}

/** Writes a folder whole or not at all. @param runExporter - with these arguments */
async function exportOpenVino(
  model: Model,
  folder: string,
  { models, format }: OpenVinoPlaces,
  runExporter: (args: readonly string[]) => Promise<unknown>,
): Promise<void> {
  const work = await mkdtemp(join(models, "openvino-"));
  try {
    const [dense, made] = [join(work, "dense"), join(work, "made")];
    await mkdir(dense);
    await writeDenseFolder(model, dense);
    await runExporter([...EXPORT, "--weight-format", format, "--model", dense, made]);
    await rename(made, folder);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}
