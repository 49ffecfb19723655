// Folders of random mixtures for one test, and models in them.

import { join } from "node:path";
import { openModel, type Model } from "@readme-moe/model";
import { type MixtureShape, TINY_MIXTURE, writeRandomMixture } from "./random-mixture.ts";
import { temporaryFolder } from "./temporary-folder.ts";

/** Writes a mixture into a folder of its own. @returns the folder */
export async function mixtureFolder(
  shape: Partial<MixtureShape> = {},
  files?: Parameters<typeof writeRandomMixture>[2],
): Promise<string> {
  const path = join(await temporaryFolder(), "model");
  await writeRandomMixture(path, { ...TINY_MIXTURE, ...shape }, files);
  return path;
}

/** Opens a model, and closes it after `use`. */
export async function withModel<Result>(path: string, use: (model: Model) => Promise<Result>): Promise<Result> {
  const model = await openModel(path);
  try {
    return await use(model);
  } finally {
    await model.close();
  }
}
