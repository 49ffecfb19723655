// The refactored pocket model, made with small options.

import { openModel } from "@readme-moe/model";
import { refactor } from "@readme-moe/refactor";
import { LITTLE, pocketTexts } from "./pocket-texts.ts";
import { POCKET } from "./pocket.ts";

/** Writes a model with the experts arxiv, book and github. @param folder - does not exist yet */
export async function writePocketExperts(folder: string): Promise<void> {
  const model = await openModel(POCKET);
  const options = { ...LITTLE, method: "select", baselines: false, threads: 1, source: "pocket" } as const;
  await refactor(model, await pocketTexts(), folder, options);
  await model.close();
}
