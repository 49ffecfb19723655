// The text files that go with the next message, bounded by the model's context.

import { computed, signal, type ReadonlySignal, type Signal } from "@preact/signals";
import type { ModelChoice } from "../../shared/live.ts";
import { countTokens } from "./api.ts";
import { model } from "./live-connection.ts";
import type { Attachment } from "./messages.ts";
import { maxTokens, mode } from "./settings.ts";
import { roomFor } from "./room.ts";

/** Few texts have more bytes in a token: a larger file cannot fit. */
const MOST_BYTES_PER_TOKEN = 64;

const chosen: Signal<readonly Attachment[]> = signal<readonly Attachment[]>([]);
export const attachments: ReadonlySignal<readonly Attachment[]> = computed(() => chosen.value);
/** Reason why a file was not attached. */
export const attachmentProblem: Signal<string> = signal("");

export function clearAttachments(): void {
  chosen.value = [];
  attachmentProblem.value = "";
}

export function removeAttachment(removed: Attachment): void {
  chosen.value = chosen.value.filter((one) => one !== removed);
  attachmentProblem.value = "";
}

/** Attaches files, as far as they are texts and fit. A file replaces another one with its name. */
export async function attach(files: Iterable<File>): Promise<void> {
  const asked = model.value;
  if (!asked) return;
  attachmentProblem.value = "";
  for (const file of files) {
    const added = await read(file, asked);
    if (typeof added === "string") attachmentProblem.value = added;
    else chosen.value = [...chosen.value.filter(({ name }) => name !== added.name), added];
  }
}

/** @returns the attachment, or the reason why there is none */
async function read(file: File, asked: ModelChoice): Promise<Attachment | string> {
  const { contextTokens } = asked;
  const { promptTokens } = roomFor({ ...asked, mode: mode.value, maxTokens: maxTokens.value });
  const tooLarge = (size: string): string =>
    `${file.name} has ${size}. This model reads ${inWords(promptTokens)} tokens beside an answer.`;
  if (file.size > contextTokens * MOST_BYTES_PER_TOKEN) return tooLarge(`${inWords(file.size)} bytes`);
  const text = decodeText(new Uint8Array(await file.arrayBuffer()));
  if (text === undefined) return `${file.name} is not a text file.`;
  try {
    const tokens = await countTokens({ model: asked.name, prompt: text, add_special_tokens: false });
    const others = chosen.value.reduce((sum, one) => sum + one.tokens, 0);
    if (tokens + others > promptTokens) return tooLarge(`${inWords(tokens)} tokens`);
    return { name: file.name, text, tokens };
  } catch (error) {
    return `${file.name}: ${error instanceof Error ? error.message : String(error)}`;
  }
}

function inWords(count: number): string {
  return count.toLocaleString("en");
}

/** Decodes UTF-8. @returns `undefined` for bytes that are no text */
function decodeText(bytes: Uint8Array<ArrayBuffer>): string | undefined {
  if (bytes.includes(0)) return undefined;
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return undefined;
  }
}
