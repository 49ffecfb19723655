// Chats of three kinds: summaries and extraction quote a text of their prompt, free chat quotes nothing.

import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import type { ChatMessage } from "@readme-moe/core";

export type ChatKind = "summary" | "extraction" | "chat";

export interface KindOfChat {
  readonly kind: ChatKind;
  readonly messages: readonly ChatMessage[];
}

const MOST_CHARACTERS = 1600;
const SUMMARIES = [
  "Summarize the following text in a few sentences.",
  "Write a short summary of this text and quote its most important sentence.",
  "Explain the main points of the following text.",
];
const EXTRACTIONS = [
  "Copy the first three sentences of the following text word by word.",
  "Correct the spelling and the punctuation of the following text, and change nothing else.",
  "List the names and numbers in the following text, each with the sentence in which it occurs.",
];
const QUESTIONS = [
  "What should I know about {}?",
  "Write a short story about {}.",
  "Give me five tips about {}.",
  "Explain {} to a child.",
  "Write a friendly letter to my neighbour about {}.",
  "What are the advantages and disadvantages of {}?",
];
const TOPICS = [
  "gardening in a dry summer",
  "learning to play the piano",
  "a lighthouse in a storm",
  "buying a used bicycle",
  "how computers store numbers",
  "baking bread at home",
  "a cat that wants to travel",
  "saving money as a student",
  "the planets",
  "sleeping well",
  "working from home",
  "the history of paper",
  "moving to another country",
  "running a small shop",
  "electric cars",
  "keeping bees",
];

/**
 * Makes chats over the documents with an even index of a folder of `<domain>.jsonl`; the odd ones are kept for final
 * measurements.
 *
 * @param perKind - number of chats of each kind
 */
export async function chatsOf(folder: string, perKind: number): Promise<readonly KindOfChat[]> {
  const names = (await readdir(folder)).filter((name) => name.endsWith(".jsonl")).toSorted();
  const domains = await Promise.all(names.map((name) => readFile(join(folder, name), "utf8")));
  const documents = domains.map((text) =>
    text
      .trimEnd()
      .split("\n")
      .filter((_, index) => index % 2 === 0)
      .map((line) => (JSON.parse(line) as { readonly text: string }).text.slice(0, MOST_CHARACTERS)),
  );
  return Array.from({ length: perKind }, (_, index) => {
    const domain = documents[index % documents.length] ?? [];
    const document = domain[Math.floor(index / documents.length) % domain.length] ?? "";
    const about = (instructions: readonly string[]): string =>
      `${instructions[index % instructions.length] ?? ""}\n\n${document}`;
    const question = QUESTIONS[index % QUESTIONS.length] ?? "";
    const topic = TOPICS[Math.floor(index / QUESTIONS.length + index) % TOPICS.length] ?? "";
    return [
      chat("summary", about(SUMMARIES)),
      chat("extraction", about(EXTRACTIONS)),
      chat("chat", question.replace("{}", topic)),
    ];
  }).flat();
}

function chat(kind: ChatKind, content: string): KindOfChat {
  return { kind, messages: [{ role: "user", content }] };
}
