// The pocket model with a template for chats, which it does not have itself.

import { copyFile, mkdir, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { POCKET } from "./pocket.ts";

export const CHAT_TEMPLATE: string =
  "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}" +
  "{% if add_generation_prompt %}[assistant]{% endif %}";

/** @param path - a folder that does not exist yet */
export async function writeChattingPocket(path: string): Promise<void> {
  await mkdir(path);
  for (const name of ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]) {
    await copyFile(join(POCKET, name), join(path, name));
  }
  await symlink(join(POCKET, "model.safetensors"), join(path, "model.safetensors"));
  await writeFile(join(path, "chat_template.jinja"), CHAT_TEMPLATE);
}
