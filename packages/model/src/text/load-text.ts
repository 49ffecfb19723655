import type { GgufMetadata } from "../gguf/metadata.ts";
import { ggufTokenizer } from "./gguf-tokenizer.ts";
import { ggufChatTemplate, loadChatTemplate } from "./load-chat-template.ts";
import { loadTokenizer } from "./load-tokenizer.ts";
import type { ModelText } from "./model-text.ts";

/** Tokenizer and chat template of a Hugging Face folder. @throws {ReadMeError} naming the file */
export async function loadFolderText(folder: string): Promise<ModelText> {
  const tokenizer = await loadTokenizer(folder);
  return { tokenizer, chatTemplate: await loadChatTemplate(folder, tokenizer) };
}

/** Tokenizer and chat template in a GGUF file's metadata. @throws {ReadMeError} naming the key */
export function loadGgufText(path: string, metadata: GgufMetadata): ModelText {
  const tokenizer = ggufTokenizer(metadata, path);
  return { tokenizer, chatTemplate: ggufChatTemplate(metadata, path, tokenizer) };
}
