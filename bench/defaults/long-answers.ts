// Tasks that ask for long answers, and whether those run into loops.

import { type Answer, repeatedShare } from "./judge.ts";

export const TASKS: readonly string[] = [
  "Plan a weekend by the sea.",
  "Why is the sea salty?",
  "Write a short story about a dog.",
  "Explain how a bicycle works.",
  "Give me tips for a job interview.",
  "What is photosynthesis?",
  "Write an email to my landlord about a broken heater.",
  "Compare cats and dogs.",
  "How do I bake bread?",
  "Tell me about the history of Rome.",
  "What should I pack for a hike?",
  "Describe a sunset.",
];

/** Share of repeated groups of words above which an answer counts as a loop. */
const LOOP = 0.3;

/** Shares of long answers. */
export interface LongSummary {
  readonly loops: number;
  readonly repeated: number;
  readonly ends: number;
}

/** Adds long answers up. */
export function summarizeLong(answers: readonly Answer[]): LongSummary {
  const repeated = answers.map(({ text }) => repeatedShare(text));
  return {
    loops: repeated.filter((share) => share > LOOP).length / answers.length,
    repeated: repeated.reduce((sum, share) => sum + share, 0) / answers.length,
    ends: answers.filter(({ finishReason }) => finishReason === "stop").length / answers.length,
  };
}
