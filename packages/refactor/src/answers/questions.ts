// Makes text to tune with: questions that a model makes itself, and its answers.

import { type AnswerFormat, type ChatPrompt, ReadMeError, type SamplingParams, seededRandom } from "@readme-moe/core";
import type { ReadMeEngine } from "@readme-moe/engine";
import { showStatus } from "readme-moe/command-parts";
import { type CodeStart, type QuestionStart, startQuestion } from "./kinds.ts";

/** Number of requests that run at once. */
const CONCURRENCY = 16;
/** Questions are tried as often as this for each that is kept. */
const MAX_TRIES = 4;
const MIN_ADDED = 12;
const MAX_QUESTION_TOKENS = 160;
/** Questions that have so many characters in common at their beginning are the same. */
const SAME_CHARACTERS = 40;
/** Content of a message in whose place a question begins. */
const PLACE = "QUESTION-PLACE";

/** Request with a seed of its own, and how its answer becomes a text. */
export interface Question extends Pick<QuestionStart, "code" | "tools" | "format"> {
  /** A user's message, or the head of a program. */
  readonly content: string;
}

export interface AnswerJob {
  readonly engine: ReadMeEngine;
  readonly params: SamplingParams;
  readonly seed: number;
  readonly signal: AbortSignal;
}

/**
 * Makes different questions of a kind. Which ones depends on the model, `seed` and `count` alone.
 * @returns `count` questions, or fewer if the model repeats itself
 */
export async function makeQuestions(job: AnswerJob, kind: string, count: number): Promise<readonly Question[]> {
  const kept = new Map<string, Question>();
  let tried = 0;
  while (kept.size < count && tried < MAX_TRIES * count) {
    const seeds = Array.from({ length: count - kept.size }, (_, index) => job.seed + tried + index);
    tried += seeds.length;
    const made = await inParallel(seeds, (seed) => makeQuestion(job, kind, seed));
    for (const question of made) if (question && !kept.has(keyOf(question))) kept.set(keyOf(question), question);
    showStatus(`${kind}: ${kept.size} of ${count} questions`);
  }
  return [...kept.values()];
}

async function makeQuestion(job: AnswerJob, kind: string, seed: number): Promise<Question | undefined> {
  const random = seededRandom(seed);
  const start = startQuestion(kind, (items) => items[Math.floor(random() * items.length)] as (typeof items)[number]);
  const { opening, code, tools, format } = start;
  const stop = code?.headStops ?? ["\n\n", "```"];
  const sampling = { temperature: 0.9, topP: 0.95, maxTokens: MAX_QUESTION_TOKENS, stop, seed };
  // The text has the template's marks already.
  const prompt = await job.engine.tokenize(await textBefore(job.engine, start), {
    addSpecialTokens: code !== undefined,
  });
  const { text, isCutShort } = await complete(job, { prompt, params: sampling });
  const content = code ? headOf(opening + text, code) : endQuestion(opening, text, isCutShort);
  return content === undefined ? undefined : { content, code, tools, format };
}

/** Returns the text that the model continues with the rest of a question. */
async function textBefore(engine: ReadMeEngine, start: QuestionStart): Promise<string> {
  const { about, asks, code, opening, tools } = start;
  if (code) return code.example + opening;
  if (asks !== undefined) {
    const lastPart = opening.slice(opening.lastIndexOf(": ") + 2);
    return (await engine.applyTemplate([{ role: "user", content: asks }])) + lastPart;
  }
  const user = { role: "user", content: PLACE };
  const template = { tools, addGenerationPrompt: false };
  const withAbout = [{ role: "system", content: about ?? "" }, user];
  const chat = await engine.applyTemplate(withAbout, template).catch((error: unknown) => {
    // Some templates refuse a system message.
    if (!(error instanceof ReadMeError) || error.code !== "ERR_CHAT_TEMPLATE") throw error;
    return engine.applyTemplate([user], template);
  });
  return chat.slice(0, Math.max(0, chat.indexOf(PLACE))) + opening;
}

/**
 * Ends a question behind its last whole sentence.
 * @param isCutShort - whether the model had more to say
 * @returns `undefined` for one that is too short, not whole, or announces more
 */
export function endQuestion(opening: string, added: string, isCutShort: boolean): string | undefined {
  const whole = (opening + added).trim();
  const least = opening.length + MIN_ADDED;
  const [sentences = ""] = /^.*[.?!]["')]?(?=\s|$)/s.exec(whole) ?? [];
  if (sentences.length >= least) return sentences;
  return isCutShort || whole.length < least || /[:,]$/.test(whole) ? undefined : whole;
}

/** Cuts a program behind the head of its first function. @returns `undefined` if that is not whole */
export function headOf(program: string, { head, headEnd }: CodeStart): string | undefined {
  return (head.exec(program) ?? head.exec(program + headEnd))?.[0];
}

/** Returns what is the same in questions that differ too little. Of requests for JSON, only the message counts. */
export function keyOf({ content, format }: Pick<Question, "content" | "format">): string {
  const text = format ? content.slice(content.lastIndexOf("\n") + 1) : content;
  const words = text.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, " ");
  return words.slice(0, SAME_CHARACTERS);
}

/** Answers questions, each with a seed of its own. @returns the chats and programs in the model's own format */
export async function answerQuestions(
  job: AnswerJob,
  questions: readonly Question[],
  what: string,
): Promise<readonly string[]> {
  const schemaOf = ({ format }: Question): string => JSON.stringify(format) ?? "";
  // One schema after the other: the engine keeps few grammars compiled.
  const bySchema = [...questions.entries()].sort(([, a], [, b]) => schemaOf(a).localeCompare(schemaOf(b)));
  const texts: string[] = [];
  let answered = 0;
  await inParallel(bySchema, async ([place, question]) => {
    texts[place] = await answerQuestion(job, question, job.seed + place);
    showStatus(`${++answered} of ${questions.length} ${what}`);
  });
  return texts;
}

async function answerQuestion(
  job: AnswerJob,
  { content, code, tools, format }: Question,
  seed: number,
): Promise<string> {
  const params = { ...job.params, seed };
  if (code) {
    const { text, isCutShort } = await complete(job, { prompt: content, params: { ...params, stop: code.stops } });
    return content + (isCutShort ? text : text.trimEnd() + code.end);
  }
  const messages = [{ role: "user", content }];
  const { text, isCutShort } = await complete(job, { prompt: { messages, template: { tools } }, params, format });
  const chat = [...messages, { role: "assistant", content: text }];
  const whole = await job.engine.applyTemplate(chat, { tools, addGenerationPrompt: false });
  // No model should learn to end where an answer was cut.
  const end = isCutShort ? whole.lastIndexOf(text.trim()) : -1;
  return end === -1 ? whole : whole.slice(0, end + text.trim().length);
}

async function complete(
  { engine, signal }: AnswerJob,
  request: {
    readonly prompt: ChatPrompt | string | Int32Array;
    readonly params: SamplingParams;
    readonly format?: AnswerFormat | undefined;
  },
): Promise<{ readonly text: string; readonly isCutShort: boolean }> {
  let text = "";
  let isCutShort = false;
  for await (const chunk of engine.generate({ ...request, signal })) {
    text += chunk.text;
    isCutShort ||= chunk.finishReason === "length";
  }
  return { text, isCutShort };
}

/** Works on items in order, on several at a time, so that a long answer holds up no other. */
async function inParallel<Item, Result>(
  items: readonly Item[],
  work: (item: Item) => Promise<Result>,
): Promise<readonly Result[]> {
  const results: Result[] = [];
  const left = items.entries();
  const workOn = async (): Promise<void> => {
    for (const [place, item] of left) results[place] = await work(item);
  };
  await Promise.all(Array.from({ length: CONCURRENCY }, workOn));
  return results;
}
