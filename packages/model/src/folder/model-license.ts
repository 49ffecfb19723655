import { stat } from "node:fs/promises";
import { join } from "node:path";
import { readTextFile } from "../files/text-file.ts";
import { GgufTensorStore } from "../gguf/gguf-tensor-store.ts";
import type { Model } from "./model.ts";

const MAX_CARD_BYTES = 16 << 20;

/**
 * The licence that a model says it has: of a GGUF file in its metadata, of a folder at the head of its model card; as it is spelled there.
 * @returns `undefined` where it says none
 */
export async function modelLicense({ path, weights }: Pick<Model, "path" | "weights">): Promise<string | undefined> {
  const { store } = weights.embedding;
  if (store instanceof GgufTensorStore) {
    const license = store.file.metadata.get("general.license");
    return typeof license === "string" && license !== "" ? license : undefined;
  }
  if (!(await stat(path)).isDirectory()) return undefined;
  const card = await readTextFile(join(path, "README.md"), MAX_CARD_BYTES);
  const [, head] = /^---\r?\n(.*?)\r?\n---/s.exec(card ?? "") ?? [];
  const [, value] = /^license:[ \t]*["']?([\w.+-]+)["']?[ \t]*$/m.exec(head ?? "") ?? [];
  return value;
}
