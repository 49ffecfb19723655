// A tiny dense model that reads texts and chats, with loras of random numbers.

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ReadMeEngine } from "@readme-moe/engine";
import { openModel, type ModelConfig } from "@readme-moe/model";
import { writeTinyAdapter, type TinyAdapter } from "./tiny-adapter.ts";
import { writeTinyDense } from "./tiny-dense.ts";

const TEMPLATE = "{% for message in messages %}{{ message.content }}\n{% endfor %}";

/** @param path - a new folder */
export async function writeExpertBase(path: string): Promise<string> {
  await writeTinyDense(path, 5);
  await writeFile(join(path, "chat_template.jinja"), TEMPLATE);
  return path;
}

/** Writes adapters that change a model's answers, by their folders. */
export async function writeAdaptersOf(model: string, folders: Readonly<Record<string, TinyAdapter>>): Promise<void> {
  const config = await configOf(model);
  for (const [folder, adapter] of Object.entries(folders))
    await writeTinyAdapter(folder, config, { size: 0.4, ...adapter });
}

async function configOf(path: string): Promise<ModelConfig> {
  const model = await openModel(path);
  await model.close();
  return model.config;
}

export function openExpertEngine(
  path: string,
  loras: Readonly<Record<string, string>> = {},
  isolation: "thread" | "process" = "thread",
): Promise<ReadMeEngine> {
  return ReadMeEngine.open(path, { precision: "fp32", isolation, threads: 1, loras });
}
