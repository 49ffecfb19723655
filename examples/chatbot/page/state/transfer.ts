// Conversations as files: Markdown to read, JSON to keep and to read again.

import * as z from "zod/mini";
import { authorOf, type Conversation, type Message } from "./messages.ts";
import { contentOf } from "./prompt.ts";

const FORMAT = "readme-moe-conversations";
/** The page's content security policy forbids what zod compiles otherwise. */
z.config({ jitless: true });

const message = z.object({
  id: z.string(),
  role: z.enum(["user", "assistant"]),
  text: z.string(),
  attachments: z.optional(z.array(z.object({ name: z.string(), text: z.string(), tokens: z.number() }))),
  spans: z.optional(z.array(z.tuple([z.int(), z.int()]))),
  reasoning: z.optional(z.string()),
  reasoningMs: z.optional(z.number()),
  ending: z.optional(z.enum(["done", "full", "context", "stopped", "cut", "failed"])),
  note: z.optional(z.string()),
  sources: z.optional(z.array(z.object({ file: z.string(), title: z.string(), score: z.number() }))),
  experts: z.optional(z.array(z.string())),
  isFormatted: z.optional(z.boolean()),
  model: z.optional(z.string()),
  expert: z.optional(z.string()),
  tokens: z.optional(z.number()),
  durationMs: z.optional(z.number()),
  contextTokens: z.optional(z.number()),
});
const conversation = z.object({
  id: z.string().check(z.regex(/^[\w-]{1,64}$/)),
  title: z.string(),
  isNamed: z.optional(z.boolean()),
  mode: z.enum(["chat", "continue"]),
  system: z.optional(z.string()),
  messages: z.array(message),
  updatedMs: z.number(),
});
const file = z.object({ format: z.literal(FORMAT), version: z.literal(1), conversations: z.array(conversation) });

export function toJson(conversations: readonly Conversation[]): string {
  return `${JSON.stringify({ format: FORMAT, version: 1, conversations }, undefined, 2)}\n`;
}

/** @throws {TypeError} when the text is no export of conversations */
export function fromJson(text: string): readonly Conversation[] {
  let data: unknown;
  try {
    data = JSON.parse(text);
  } catch (cause) {
    throw new TypeError("This file is not JSON.", { cause });
  }
  const { success, data: parsed, error } = z.safeParse(file, data);
  // Members that JSON lacks are absent, not `undefined`.
  if (success) return parsed.conversations as readonly Conversation[];
  const [issue] = error.issues;
  throw new TypeError(`This file has no conversations of this chat (at ${issue?.path.join(".") || "its beginning"}).`);
}

export function toMarkdown({ title, system = "", messages }: Conversation): string {
  const instructions = system.trim() === "" ? [] : [`> ${system.trim().replaceAll("\n", "\n> ")}`];
  return `${[`# ${title}`, ...instructions, ...messages.map(turnOf)].join("\n\n")}\n`;
}

function turnOf(turn: Message): string {
  const author = turn.role === "user" ? "You" : authorOf(turn);
  const sources = (turn.sources ?? []).map((source, index) => `${index + 1}. ${source.title} (${source.file})`);
  return [`## ${author}`, contentOf(turn).trim(), ...(sources.length > 0 ? [sources.join("\n")] : [])].join("\n\n");
}

/** Makes a file's name from a title. */
export function fileNameOf(title: string, extension: string): string {
  const words = title
    .normalize("NFC")
    .replaceAll(/[^\p{L}\p{N}]+/gu, "-")
    .replaceAll(/^-+|-+$/g, "");
  return `${words.slice(0, 60) || "conversation"}.${extension}`;
}
