import { ReadMeError, type ChatMessage } from "@readme-moe/core";
import { writeFileAtomically } from "@readme-moe/model";
import { readTextData } from "../data-files.ts";

/** A chat in a file. */
export interface SavedChat {
  /** Model that answered last. */
  readonly model: string;
  readonly messages: readonly ChatMessage[];
}

/** Writes a chat. @throws {ReadMeError} `ERR_WRITE_FAILED` */
export async function saveChat(path: string, chat: SavedChat): Promise<void> {
  await writeFileAtomically(path, `${JSON.stringify(chat, undefined, 2)}\n`);
}

/** Reads a chat. @throws {ReadMeError} as `readTextData` */
export async function loadChat(path: string): Promise<SavedChat> {
  const text = await readTextData(path);
  let chat: unknown;
  try {
    chat = JSON.parse(text);
  } catch (cause) {
    throw corrupt(path, "it is no JSON", cause);
  }
  const { model, messages } = Object(chat) as { readonly model?: unknown; readonly messages?: unknown };
  if (typeof model !== "string" || !Array.isArray(messages)) throw corrupt(path, "it has no `model` and `messages`");
  return { model, messages: messages.map((message, index) => checked(path, message, index)) };
}

function checked(path: string, message: unknown, index: number): ChatMessage {
  const { role, content } = Object(message) as { readonly role?: unknown; readonly content?: unknown };
  if (typeof role === "string" && typeof content === "string") return { role, content };
  throw corrupt(path, `\`messages[${index}]\` has no \`role\` and \`content\``);
}

function corrupt(path: string, why: string, cause?: unknown): ReadMeError {
  return new ReadMeError("ERR_FILE_CORRUPT", `${path}: is no saved chat: ${why}`, { cause });
}
