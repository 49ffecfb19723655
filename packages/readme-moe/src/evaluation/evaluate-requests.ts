import { evaluateMultipleChoice, type Question } from "@readme-moe/engine/evaluation";
import { showStatus } from "../progress.ts";
import { type EvaluationJob, withProgress } from "./evaluation-job.ts";
import { accuracyRow } from "./report-rows.ts";

/** Accuracies on files of multiple-choice questions; one after the other, each shown when it is known. */
export async function evaluateRequests(
  job: EvaluationJob,
  files: ReadonlyMap<string, readonly Question[]>,
): Promise<Readonly<Record<string, unknown>>> {
  const { model, runner, router, tokenizer, flags } = job;
  const contexts = [model.config.contextTokens, model.router?.config.contextTokens ?? Infinity];
  const maxTokens = flags.sequenceLength ?? Math.min(...contexts);
  const results: [string, Readonly<Record<string, unknown>>][] = [];
  for (const [name, questions] of files) {
    const options = { ...withProgress(job, name), maxTokens };
    const evaluation = await evaluateMultipleChoice({ runner, router }, tokenizer, questions, options);
    const { accuracy, normalizedAccuracy, numCut } = evaluation;
    showStatus();
    job.print(accuracyRow(name, accuracy, normalizedAccuracy, questions.length));
    if (numCut > 0) console.error(`note: ${name}: ${numCut} requests were cut to their last ${maxTokens} tokens`);
    results.push([
      name,
      {
        acc: accuracy.value,
        acc_stderr: accuracy.standardError ?? null,
        acc_norm: normalizedAccuracy.value,
        acc_norm_stderr: normalizedAccuracy.standardError ?? null,
        documents: questions.length,
        cut_requests: numCut,
      },
    ]);
  }
  return { requests: Object.fromEntries(results) };
}
