// Requests whose answers repeat their prompt: extraction, quoting summaries, changes of code, corrected spelling.

import { seededRandom } from "@readme-moe/core";
import { byTurns, codeOf, type CodePassage, type Documents, sentencesOf } from "./documents.ts";
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

const PROSE_TASKS = 3;
const CODE_TASKS = 2;

/** A request, and the text that its answer repeats if it is right about most of it. */
interface QuoteTask {
  readonly name: string;
  readonly prompt: readonly Turn[];
  readonly edited: string | undefined;
}

/** Makes requests of all tasks by turns. */
export function quoteRequests(documents: Documents): readonly DraftedRequest[] {
  return byTurns(quoteTasks(documents)).map(({ name, prompt }) => ({ kind: "quote", name, prompt, params: GREEDY }));
}

/** Makes the requests that edit a text, which comes with them as the expected answer. */
export function predictedRequests(documents: Documents): readonly DraftedRequest[] {
  return byTurns(quoteTasks(documents)).flatMap(({ name, prompt, edited }) =>
    edited === undefined ? [] : [{ kind: "predicted", name, prompt, params: GREEDY, prediction: edited }],
  );
}

function quoteTasks({ prose, code }: Documents): readonly (readonly QuoteTask[])[] {
  const passages = prose.flatMap((document) => {
    const sentences = sentencesOf(document, PROSE_LIMITS);
    return sentences ? [{ document, sentences }] : [];
  });
  const programs = code.flatMap((document) => {
    const passage = codeOf(document, CODE_LINES);
    return passage ? [{ document, passage }] : [];
  });
  const ofProse = (task: string, own: number, make: (sentences: readonly string[]) => Chat): readonly QuoteTask[] =>
    passages
      .filter((_, index) => index % PROSE_TASKS === own)
      .map(({ document, sentences }) => ({ name: `${task} ${document.name}`, ...make(sentences) }));
  const ofCode = (task: string, own: number, make: (passage: CodePassage) => Chat): readonly QuoteTask[] =>
    programs
      .filter((_, index) => index % CODE_TASKS === own)
      .map(({ document, passage }) => ({ name: `${task} ${document.name}`, ...make(passage) }));
  return [
    ofProse("spelling", 0, spellingChat),
    ofCode("rename", 0, renameChat),
    ofProse("extract", 1, (sentences) => ({ prompt: extractChat(sentences), edited: undefined })),
    ofCode("comment", 1, commentChat),
    ofProse("summary", 2, (sentences) => ({ prompt: summaryChat(sentences), edited: undefined })),
  ];
}

type Chat = Pick<QuoteTask, "prompt" | "edited">;

function oneShot(instruction: string, example: readonly [string, string], input: string): readonly Turn[] {
  return [
    { role: "user", content: `${instruction}\n\n${example[0]}` },
    { role: "assistant", content: example[1] },
    { role: "user", content: `${instruction}\n\n${input}` },
  ];
}

const EXAMPLE_TEXT = EXAMPLE_SENTENCES.join(" ");

function spellingChat(sentences: readonly string[]): Chat {
  const instruction = "Correct the spelling mistakes. Answer with the whole text.";
  const edited = misspelled(sentences.join(" "), 2);
  return { prompt: oneShot(instruction, [misspelled(EXAMPLE_TEXT, 1), EXAMPLE_TEXT], edited), edited };
}

/** Swaps two letters in about every fourth long word. */
export function misspelled(text: string, seed: number): string {
  const random = seededRandom(seed);
  return text.replaceAll(/\b[a-z]{6,}\b/g, (word) => {
    if (random() > 1 / 4) return word;
    const at = 1 + Math.floor(random() * (word.length - 3));
    return word.slice(0, at) + (word[at + 1] ?? "") + (word[at] ?? "") + word.slice(at + 2);
  });
}

function extractChat(sentences: readonly string[]): readonly Turn[] {
  const instruction = "Copy the first two sentences of this text word for word.";
  return oneShot(instruction, [EXAMPLE_TEXT, EXAMPLE_SENTENCES.slice(0, 2).join(" ")], sentences.join(" "));
}

function summaryChat(sentences: readonly string[]): readonly Turn[] {
  const [first = "", second = ""] = EXAMPLE_SENTENCES;
  const answer = `The text says: "${first}" It also says: "${second}"`;
  return oneShot("Summarize the text with quotes from it.", [EXAMPLE_TEXT, answer], sentences.join(" "));
}

function commentChat({ lines }: CodePassage): Chat {
  const commented = ["// Reports too many items.", ...EXAMPLE_CODE.lines];
  const instruction = "Add a comment as the first line. Answer with the whole code.";
  const edited = fenced(lines);
  return { prompt: oneShot(instruction, [fenced(EXAMPLE_CODE.lines), fenced(commented)], edited), edited };
}

function renameChat(passage: CodePassage): Chat {
  const renamed = EXAMPLE_CODE.lines.map((line) => line.replaceAll(EXAMPLE_CODE.name, newName(EXAMPLE_CODE.name)));
  return {
    prompt: [
      { role: "user", content: askToRename(EXAMPLE_CODE) },
      { role: "assistant", content: fenced(renamed) },
      { role: "user", content: askToRename(passage) },
    ],
    edited: fenced(passage.lines),
  };
}

function askToRename({ lines, name }: CodePassage): string {
  return `Rename \`${name}\` to \`${newName(name)}\`. Answer with the whole code.\n\n${fenced(lines)}`;
}

function newName(name: string): string {
  return `new_${name}`;
}

function fenced(lines: readonly string[]): string {
  return ["```", ...lines, "```"].join("\n");
}
