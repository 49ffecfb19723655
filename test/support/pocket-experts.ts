// The pocket model's refactored form, with little of everything.

import { openModel } from "@readme-moe/model";
import { refactor } from "@readme-moe/refactor";
import { LITTLE, pocketTexts } from "./pocket-texts.ts";
import { POCKET } from "./pocket.ts";

/** Writes a model with the experts arxiv, book and github. @param folder - a new one */
export async function writePocketExperts(folder: string): Promise<void> {
  const model = await openModel(POCKET);
  const options = { ...LITTLE, method: "select", baselines: false } as const;
  await refactor(model, await pocketTexts(), folder, options, { threads: 1, source: "pocket" });
  await model.close();
}
