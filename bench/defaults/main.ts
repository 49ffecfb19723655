// Compares usual sampling defaults on twenty plain questions with known answers, each with forty seeds, by checks that a
// program can make. Needs no clock, so it may run beside other work.
//
//   npm run bench:defaults -- [model] [--seeds 40] [--max-new-tokens 64] [--precision int8] [--only "T 0.7"]

import { parseArgs } from "node:util";
import type { FinishReason } from "@readme-moe/core";
import { ReadMeEngine } from "@readme-moe/engine";
import type { Precision } from "@readme-moe/model";
import { type Answer, judge, type Summary, summarize, type Verdict } from "./judge.ts";
import { QUESTIONS, type Question } from "./questions.ts";
import { type NamedSampling, SAMPLINGS } from "./sampling.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    seeds: { type: "string", default: "40" },
    "max-new-tokens": { type: "string", default: "64" },
    precision: { type: "string", default: "int8" },
    threads: { type: "string" },
    only: { type: "string" },
  },
});
const [model = "smollm2:135m"] = positionals;
const maxTokens = Number(values["max-new-tokens"]);
const seeds = Array.from({ length: Number(values.seeds) }, (_, index) => index + 1);

const threads = values.threads === undefined ? undefined : Number(values.threads);
const engine = await ReadMeEngine.open(model, { precision: values.precision as Precision, threads });
try {
  console.log(
    `| sampling | right, % | repeated, % | ends, % | language, % | all four, % |\n| --- | ---: | ---: | ---: | ---: | ---: |`,
  );
  for (const sampling of SAMPLINGS) {
    if (values.only !== undefined && sampling.name !== values.only) continue;
    // Without randomness all seeds give the same answers.
    const isGreedy = sampling.params.temperature === 0;
    console.log(row(sampling, summarize(await runsOf(sampling, isGreedy ? seeds.slice(0, 1) : seeds))));
  }
} finally {
  await engine.dispose();
}

/** Asks all questions with each seed. The engine batches; it takes 1,024 requests at once. */
async function runsOf(sampling: NamedSampling, ofSeeds: readonly number[]): Promise<readonly (readonly Verdict[])[]> {
  return Promise.all(
    ofSeeds.map((seed) =>
      Promise.all(QUESTIONS.map(async (question) => judge(question, await answer(question, sampling, seed)))),
    ),
  );
}

async function answer({ text: content }: Question, { params }: NamedSampling, seed: number): Promise<Answer> {
  const prompt = { messages: [{ role: "user", content }] };
  let text = "";
  let finishReason: FinishReason | undefined;
  for await (const chunk of engine.generate({ prompt, params: { ...params, maxTokens, seed } })) {
    text += chunk.text;
    finishReason = chunk.finishReason ?? finishReason;
  }
  return { text, finishReason };
}

function row({ name }: NamedSampling, summary: Summary): string {
  const error = summary.rightError === undefined ? "" : ` ± ${percent(summary.rightError)}`;
  const right = percent(summary.right) + error;
  const others = [summary.repeated, summary.ends, summary.staysInLanguage, summary.good].map(percent);
  return `| ${[name, right, ...others].join(" | ")} |`;
}

function percent(share: number): string {
  return (100 * share).toFixed(1);
}
