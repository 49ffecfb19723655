// Compares answers of models to short instructions with those of their dense model: the share of equal greedy answers,
// how often a model ranks the dense model's next token first, and its loss on that token.
//
//   pnpm bench:answers <dense model> <name=model>... [--precision fp32] [--max-new-tokens 96] [--page answers.md]

import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { ReadMeEngine } from "@readme-moe/engine";
import { forcedScores, type GivenAnswer } from "./forced-scores.ts";
import { answersPage, type Judged } from "./page.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    precision: { type: "string", default: "fp32" },
    "max-new-tokens": { type: "string", default: "96" },
    page: { type: "string" },
  },
});
const [densePath = "", ...others] = positionals;
const precision = values.precision as "fp32" | "int8" | "int4";
const lines = await readFile(join(import.meta.dirname, "instructions.txt"), "utf8");
const instructions = lines.trimEnd().split("\n");
const models = [`dense=${densePath}`, ...others].map((text) => {
  const [, name = "", path = ""] = /^([^=]+)=(.*)$/.exec(text) ?? [];
  return { name, path };
});

let reference: readonly GivenAnswer[] | undefined;
const judged: Judged[] = [];
console.log(`${"model".padEnd(16)} equal answers  same next token  loss on the dense model's answers, nats by token`);
for (const { name, path } of models) {
  const answers = await greedyAnswers(path);
  reference ??= answers;
  const scores = await forcedScores(path, precision, reference);
  const equal = answers.filter(({ tokenIds }, index) => isSame(tokenIds, reference?.[index]?.tokenIds ?? [])).length;
  judged.push({ name, answers, scores, equal });
  const agreement = `${(100 * scores.agreement).toFixed(1)} %`.padStart(15);
  console.log(
    `${name.padEnd(16)} ${`${equal} of ${answers.length}`.padStart(13)}  ${agreement}  ${scores.loss.toFixed(4)}`,
  );
}
if (values.page !== undefined) await writeFile(values.page, answersPage(judged));

/** Generates all answers concurrently, like a server. */
async function greedyAnswers(path: string): Promise<readonly GivenAnswer[]> {
  const engine = await ReadMeEngine.open(path, { precision });
  try {
    return await Promise.all(
      instructions.map(async (instruction) => {
        const messages = [{ role: "user", content: instruction }];
        const rendered = await engine.applyTemplate(messages, { addGenerationPrompt: true });
        const promptIds = Array.from(await engine.tokenize(rendered, { addSpecialTokens: false }));
        const tokenIds: number[] = [];
        let text = "";
        const params = { temperature: 0, maxTokens: Number(values["max-new-tokens"]) };
        for await (const chunk of engine.generate({ prompt: promptIds, params })) {
          tokenIds.push(...chunk.tokens.map(({ id }) => id));
          text += chunk.text;
        }
        return { instruction, promptIds, tokenIds, text };
      }),
    );
  } finally {
    await engine.dispose();
  }
}

function isSame(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((id, index) => id === b[index]);
}
