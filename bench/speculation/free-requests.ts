// Requests whose answers are free, and requests whose answers nobody can foresee.

import { seededRandom } from "@readme-moe/core";
import { byTurns, type Documents, sentencesOf } from "./documents.ts";
import { type DraftedRequest, GREEDY, sampled } from "./request.ts";

const QUESTIONS = [
  "Explain how a bicycle stays upright.",
  "Write a short letter to a friend who moved to another country.",
  "What should a beginner know before planting tomatoes?",
  "Describe a rainy afternoon in a small town.",
  "How does a computer store numbers?",
  "Give three reasons to learn a second language.",
  "Tell a short story about a lost key.",
  "What happens in the body during sleep?",
  "Compare trains and buses for a city of a million people.",
  "Explain inflation to a twelve-year-old.",
  "Write a product description of a wooden chair.",
  "How do I prepare for a job interview?",
  "What makes a good teacher?",
  "Describe how bread is made, step by step.",
  "Why did people build castles?",
  "Plan a weekend in the mountains for two.",
  "What is the difference between weather and climate?",
  "Write a poem about the sea without rhymes.",
];
const LIMITS = { minChars: 160, maxChars: 360 };

/** Makes questions and texts to continue by turns, each greedy and sampled at temperature 0.7. */
export function chatRequests({ prose }: Documents): readonly DraftedRequest[] {
  const questions = QUESTIONS.map((content, index) => ({
    name: `question ${index}`,
    prompt: [{ role: "user" as const, content }],
  }));
  const continued = prose.flatMap((document) => {
    const sentences = sentencesOf(document, LIMITS);
    return sentences ? [{ name: `continue ${document.name}`, prompt: sentences.join(" ") }] : [];
  });
  return byTurns<Pick<DraftedRequest, "name" | "prompt">>([questions, continued]).map(({ name, prompt }, index) => {
    const isSampled = Math.floor(index / 2) % 2 === 1;
    const params = isSampled ? sampled(index) : GREEDY;
    return { kind: "chat", name: isSampled ? `${name} sampled` : name, prompt, params };
  });
}

const LANGUAGES = ["TypeScript", "Python", "SQL", "Bash"];
const TASKS = [
  "adds up the prices of all orders of a customer",
  "removes duplicates from a list and keeps the order",
  "finds the most frequent word of a text file",
  "checks whether brackets are balanced",
  "converts a date such as 2024-03-05 to the day of the week",
  "reads a CSV file and prints the column with the largest sum",
  "lists the files of a folder that changed today",
  "merges two sorted lists",
  "counts the visits of each page by day",
  "validates an email address",
  "splits a list into pages of ten items",
  "retries a failing call three times",
  "groups employees by department and averages their salaries",
  "renames all files with spaces in their names",
  "computes the shortest path in a graph",
  "caches the results of a slow call for a minute",
];

/** Makes requests for programs in several languages, each greedy and sampled at temperature 0.7. */
export function codeRequests(): readonly DraftedRequest[] {
  return TASKS.flatMap((task, place) =>
    LANGUAGES.map((language, index) => {
      const content = `Write ${language} code that ${task}. Answer with the code and one sentence about it.`;
      const isSampled = (place + index) % 2 === 1;
      const name = `${language} ${place}${isSampled ? " sampled" : ""}`;
      const params = isSampled ? sampled(place * LANGUAGES.length + index) : GREEDY;
      return { kind: "code", name, prompt: [{ role: "user", content }], params };
    }),
  );
}

const RANDOM_REQUESTS = 64;
const PROMPT_TOKENS = 64;
const HOT = 5;

/** Makes prompts of random tokens, sampled at a temperature at which nearly all tokens are as likely. */
export function randomRequests(vocabSize: number, seed: number): readonly DraftedRequest[] {
  const random = seededRandom(seed);
  return Array.from({ length: RANDOM_REQUESTS }, (_, index) => ({
    kind: "random",
    name: `random ${index}`,
    prompt: Array.from({ length: PROMPT_TOKENS }, () => Math.floor(random() * vocabSize)),
    params: { ...sampled(seed + index, HOT), ignoreEos: true },
  }));
}
