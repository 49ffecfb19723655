// Requests whose answers repeat their prompt: extraction, quoting summaries, changes of code, corrected spelling.

import { seededRandom } from "@readme-moe/core";
import { byTurns, codeOf, type CodePassage, type Document, type Documents, sentencesOf } from "./documents.ts";
import { type DraftedRequest, GREEDY, type Turn } from "./request.ts";

const CODE_LINES = 10;
const PROSE_LIMITS = { minChars: 260, maxChars: 520 };

// A small model copies after it has seen one example of the task.
const EXAMPLE_SENTENCES = [
  "The harbour of Lund was closed to ships in 1921 after a long winter storm.",
  "Its lighthouse was built by two brothers, who also kept the first weather records of the coast.",
  "Today the tower is a museum with a small library.",
];
const EXAMPLE_CODE: CodePassage = {
  lines: ["const total = items.length;", "if (total > limit) {", "  report(total);", "}"],
  name: "total",
};

/** Makes requests of the four tasks by turns. */
export function quoteRequests({ prose, code }: Documents): readonly DraftedRequest[] {
  const passages = prose.flatMap((document) => {
    const sentences = sentencesOf(document, PROSE_LIMITS);
    return sentences ? [{ document, sentences }] : [];
  });
  const programs = code.flatMap((document) => {
    const passage = codeOf(document, CODE_LINES);
    return passage ? [{ document, passage }] : [];
  });
  const proseTask = (
    task: string,
    own: number,
    chatOf: (sentences: readonly string[]) => readonly Turn[],
  ): readonly DraftedRequest[] =>
    passages
      .filter((_, index) => index % PROSE_TASKS === own)
      .map(({ document, sentences }) => requestOf(task, document, chatOf(sentences)));
  const codeTask = (
    task: string,
    own: number,
    chatOf: (passage: CodePassage) => readonly Turn[],
  ): readonly DraftedRequest[] =>
    programs
      .filter((_, index) => index % CODE_TASKS === own)
      .map(({ document, passage }) => requestOf(task, document, chatOf(passage)));
  return byTurns([
    proseTask("spelling", 0, spellingChat),
    codeTask("rename", 0, renameChat),
    proseTask("extract", 1, extractChat),
    codeTask("comment", 1, commentChat),
    proseTask("summary", 2, summaryChat),
  ]);
}

const PROSE_TASKS = 3;
const CODE_TASKS = 2;

function requestOf(task: string, { name }: Document, prompt: readonly Turn[]): DraftedRequest {
  return { kind: "quote", name: `${task} ${name}`, prompt, params: GREEDY };
}

function oneShot(ask: (input: string) => string, example: readonly [string, string], input: string): readonly Turn[] {
  return [
    { role: "user", content: ask(example[0]) },
    { role: "assistant", content: example[1] },
    { role: "user", content: ask(input) },
  ];
}

function spellingChat(sentences: readonly string[]): readonly Turn[] {
  const ask = (text: string): string => `Correct the spelling mistakes. Answer with the whole text.\n\n${text}`;
  const right = EXAMPLE_SENTENCES.join(" ");
  return oneShot(ask, [misspelled(right, 1), right], misspelled(sentences.join(" "), 2));
}

/** Swaps two letters in every twelfth long word or so. */
export function misspelled(text: string, seed: number): string {
  const random = seededRandom(seed);
  return text.replaceAll(/\b[a-z]{6,}\b/g, (word) => {
    if (random() > 1 / 4) return word;
    const at = 1 + Math.floor(random() * (word.length - 3));
    return word.slice(0, at) + (word[at + 1] ?? "") + (word[at] ?? "") + word.slice(at + 2);
  });
}

function extractChat(sentences: readonly string[]): readonly Turn[] {
  const ask = (text: string): string => `Copy the first two sentences of this text word for word.\n\n${text}`;
  const firstTwo = EXAMPLE_SENTENCES.slice(0, 2).join(" ");
  return oneShot(ask, [EXAMPLE_SENTENCES.join(" "), firstTwo], sentences.join(" "));
}

function summaryChat(sentences: readonly string[]): readonly Turn[] {
  const ask = (text: string): string => `Summarize the text with quotes from it.\n\n${text}`;
  const [first = "", second = ""] = EXAMPLE_SENTENCES;
  const answer = `The text says: "${first}" It also says: "${second}"`;
  return oneShot(ask, [EXAMPLE_SENTENCES.join(" "), answer], sentences.join(" "));
}

function fenced(lines: readonly string[]): string {
  return ["```", ...lines, "```"].join("\n");
}

function renameChat(passage: CodePassage): readonly Turn[] {
  const ask = ({ lines, name }: CodePassage): string =>
    `Rename \`${name}\` to \`${newName(name)}\`. Answer with the whole code.\n\n${fenced(lines)}`;
  const renamed = EXAMPLE_CODE.lines.map((line) => line.replaceAll(EXAMPLE_CODE.name, newName(EXAMPLE_CODE.name)));
  return [
    { role: "user", content: ask(EXAMPLE_CODE) },
    { role: "assistant", content: fenced(renamed) },
    { role: "user", content: ask(passage) },
  ];
}

function newName(name: string): string {
  return `new_${name}`;
}

function commentChat({ lines }: CodePassage): readonly Turn[] {
  const ask = (text: string): string => `Add a comment as the first line. Answer with the whole code.\n\n${text}`;
  const commented = ["// Reports too many items.", ...EXAMPLE_CODE.lines];
  return oneShot(ask, [fenced(EXAMPLE_CODE.lines), fenced(commented)], fenced(lines));
}
