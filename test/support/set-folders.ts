// Folders of a fixture's model with sets of low-rank experts.

import { cp, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { addLowRankExpert, openLowRankExpert, openModel, type Model } from "@readme-moe/model";
import { fixture } from "./fixtures.ts";
import { temporaryFolder } from "./temporary-folder.ts";
import { writeTinyAdapter } from "./tiny-adapter.ts";

export const SET_FILE = "read-me-experts.json";

/** A copy of a model of `fixtures/families`. */
export async function modelFolder(family = "llama-tied"): Promise<string> {
  const folder = join(await temporaryFolder(), "model");
  await cp(fixture(`families/${family}`), folder, { recursive: true });
  return folder;
}

/** A new adapter of one module, in a folder named `legal`. */
export async function adapterFor(model: Pick<Model, "config">, seed = 1): Promise<string> {
  const folder = join(await temporaryFolder(), "legal");
  return writeTinyAdapter(folder, model.config, { modules: ["mlp.up_proj"], seed });
}

/** Adds an adapter, or a new one, to a set. */
export async function addTo(
  folder: string,
  name: string,
  { model, path, dropRouter }: { readonly model: Model; readonly path?: string; readonly dropRouter?: boolean },
): Promise<void> {
  await addLowRankExpert(folder, { name, path: path ?? (await adapterFor(model)), model }, { dropRouter });
}

/** Names of the experts in a model's folder, each of which can be opened. */
export async function namesIn(folder: string): Promise<readonly string[] | undefined> {
  const model = await openModel(folder);
  const names = model.lowRank?.experts.map(({ name }) => name);
  for (const { name, path } of model.lowRank?.experts ?? []) {
    await (await openLowRankExpert(path, name, model)).close();
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
