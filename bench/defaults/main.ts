// Compares usual sampling defaults on twenty plain questions with known answers, each with forty seeds, by checks that a
// program can make. Needs no clock, so it may run beside other work.
//
//   npm run bench:defaults -- [model] [--seeds 40] [--max-new-tokens 64] [--precision int8] [--only "T 0.7"]
//
// With --lora: a set of low-rank experts over the model, whose router chooses for each token.
// With --long: twelve tasks with at most 400 tokens and four seeds, and the share of answers that run into loops.

import { parseArgs } from "node:util";
import type { FinishReason } from "@readme-moe/core";
import { ReadMeEngine } from "@readme-moe/engine";
import type { Precision } from "@readme-moe/model";
import { type Answer, judge, type Summary, summarize, type Verdict } from "./judge.ts";
import { type LongSummary, summarizeLong, TASKS } from "./long-answers.ts";
import { QUESTIONS } from "./questions.ts";
import { type NamedSampling, SAMPLINGS } from "./sampling.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    seeds: { type: "string" },
    "max-new-tokens": { type: "string" },
    long: { type: "boolean", default: false },
    precision: { type: "string", default: "int8" },
    threads: { type: "string" },
    only: { type: "string" },
    lora: { type: "string" },
  },
});
const [model = "smollm2:135m"] = positionals;
const maxTokens = Number(values["max-new-tokens"] ?? (values.long ? 400 : 64));
const seeds = Array.from({ length: Number(values.seeds ?? (values.long ? 4 : 40)) }, (_, index) => index + 1);

const threads = values.threads === undefined ? undefined : Number(values.threads);
const loras = values.lora === undefined ? undefined : { set: values.lora };
const engine = await ReadMeEngine.open(model, { precision: values.precision as Precision, threads, loras });
try {
  const columns = values.long ? ["loops", "repeated", "ends"] : ["right", "repeated", "ends", "language", "all four"];
  console.log(`| sampling | ${columns.map((name) => `${name}, %`).join(" | ")} |`);
  console.log(`| --- | ${columns.map(() => "---:").join(" | ")} |`);
  for (const sampling of SAMPLINGS) {
    if (values.only !== undefined && sampling.name !== values.only) continue;
    // Without randomness all seeds give the same answers.
    const isGreedy = sampling.params.temperature === 0;
    const own = isGreedy ? seeds.slice(0, 1) : seeds;
    console.log(
      values.long
        ? longRow(sampling, summarizeLong(await longAnswers(sampling, own)))
        : row(sampling, summarize(await runsOf(sampling, own))),
    );
  }
} finally {
  await engine.dispose();
}

/** Asks all questions with each seed. The engine batches; it takes 1,024 requests at once. */
async function runsOf(sampling: NamedSampling, ofSeeds: readonly number[]): Promise<readonly (readonly Verdict[])[]> {
  return Promise.all(
    ofSeeds.map((seed) =>
      Promise.all(QUESTIONS.map(async (question) => judge(question, await answer(question.text, sampling, seed)))),
    ),
  );
}

/** Gives all tasks with each seed. */
async function longAnswers(sampling: NamedSampling, ofSeeds: readonly number[]): Promise<readonly Answer[]> {
  return Promise.all(ofSeeds.flatMap((seed) => TASKS.map((task) => answer(task, sampling, seed))));
}

async function answer(content: string, { params }: NamedSampling, seed: number): Promise<Answer> {
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

function longRow({ name }: NamedSampling, { loops, repeated, ends }: LongSummary): string {
  return `| ${[name, ...[loops, repeated, ends].map(percent)].join(" | ")} |`;
}

function percent(share: number): string {
  return (100 * share).toFixed(1);
}
