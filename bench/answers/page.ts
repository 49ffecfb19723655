import type { ForcedScores, GivenAnswer } from "./forced-scores.ts";

export interface Judged {
  readonly name: string;
  readonly answers: readonly GivenAnswer[];
  /** Scores of the dense model's answers. */
  readonly scores: ForcedScores;
  /** Number of answers equal to the dense model's, token for token. */
  readonly equal: number;
}

/** Writes all answers of all models as Markdown, by instruction. */
export function answersPage(judged: readonly Judged[]): string {
  const [dense] = judged;
  const rows = judged.map(({ name, answers, scores, equal }) => {
    const agreement = `${(100 * scores.agreement).toFixed(1)} %`;
    return `| ${name} | ${equal} of ${answers.length} | ${agreement} | ${scores.loss.toFixed(3)} |`;
  });
  const sections = (dense?.answers ?? []).map(({ instruction }, index) => {
    const given = judged.map(({ name, answers }) => `**${name}**\n\n${fenced(answers[index]?.text ?? "")}`);
    return `## ${index + 1}. ${instruction}\n\n${given.join("\n\n")}`;
  });
  return [
    "# Answers to fifty instructions",
    "Greedy answers, cut when they are long. Made by `npm run bench:answers`.",
    [
      "| model | answers equal to the dense model's | same next token along the dense model's answers | loss on them |",
      "| --- | --- | --- | --- |",
      ...rows,
    ].join("\n"),
    ...sections,
  ]
    .join("\n\n")
    .concat("\n");
}

/** Encloses a text in a fence that it does not contain. */
function fenced(text: string): string {
  const longest = Math.max(2, ...Array.from(text.matchAll(/`+/g), ([ticks]) => ticks.length));
  const fence = "`".repeat(longest + 1);
  return `${fence}text\n${text.trimEnd()}\n${fence}`;
}
