import { join } from "node:path";
import type { Tokenizer } from "@readme-moe/model";
import { runningModel, type RunningModel } from "./running-model.ts";
import { persistentFolder } from "./temporary-folder.ts";
import { WITH_TOKENIZER, writeTinyReadMe } from "./tiny-read-me.ts";

/** A tiny model of experts that reads text, in a folder of its own, for all tests of a file. */
export async function runningTinyModel(): Promise<RunningModel & { readonly tokenizer: Tokenizer }> {
  const path = join(await persistentFolder(), "model");
  await writeTinyReadMe(path, { ...WITH_TOKENIZER });
  const running = await runningModel(path);
  return { ...running, tokenizer: (await running.model.loadText()).tokenizer };
}
