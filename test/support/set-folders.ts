// Folders of a fixture's model with sets of loras.

import { cp, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { openLora, openModel } from "@readme-moe/model";
import { fixture } from "./fixtures.ts";
import { temporaryFolder } from "./temporary-folder.ts";

export const SET_FILE = "read-me-experts.json";

/** A copy of a model of `fixtures/families`. */
export async function modelFolder(family = "llama-tied"): Promise<string> {
  const folder = join(await temporaryFolder(), "model");
  await cp(fixture(`families/${family}`), folder, { recursive: true });
  return folder;
}

/** Names of the experts in a model's folder, each of which can be opened. */
export async function namesIn(folder: string): Promise<readonly string[] | undefined> {
  const model = await openModel(folder);
  const names = model.loraSet?.experts.map(({ name }) => name);
  for (const { name, path } of model.loraSet?.experts ?? []) {
    await (await openLora(path, name, model)).close();
  }
  await model.close();
  return names;
}

/** Reads a set's file. */
export async function setJson(folder: string): Promise<Record<string, unknown>> {
  return JSON.parse(await readFile(join(folder, SET_FILE), "utf8")) as Record<string, unknown>;
}

/** Writes a set's file in place of the one that is there. */
export async function writeJson(folder: string, json: unknown): Promise<void> {
  await writeFile(join(folder, SET_FILE), JSON.stringify(json));
}
