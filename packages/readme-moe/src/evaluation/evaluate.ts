// Losses on text, and accuracies on multiple-choice questions: printed file by file, and returned for JSON.

import {
  type Accuracy,
  evaluateMultipleChoice,
  evaluatePassages,
  evaluatePerExpert,
  type ExpertEvaluation,
  type Passage,
  passagesOf,
  type Question,
  type ScoreOptions,
} from "@readme-moe/engine/evaluation";
import type { Tokenizer } from "@readme-moe/model";
import { type LoraArgument, type RuntimeFlags } from "../options.ts";
import type { RunningModel } from "../models.ts";
import { showStatus, signed, percent } from "../terminal.ts";

export interface EvalFlags extends RuntimeFlags {
  readonly data?: readonly string[];
  readonly requests?: readonly string[];
  readonly limit?: number;
  readonly sequenceLength?: number;
  readonly maxSequences: number;
  readonly stride?: number;
  readonly expert?: string;
  readonly lora?: readonly LoraArgument[];
  readonly perExpert: boolean;
  readonly json: boolean;
}

/** Shared by the parts of an evaluation. */
export interface EvaluationJob extends RunningModel {
  readonly tokenizer: Tokenizer;
  readonly flags: EvalFlags;
  readonly signal: AbortSignal;
  /** Prints a result's line, unless results are printed as JSON at the end. */
  readonly print: (line: string) => void;
}

/** Fields of the JSON output. */
type Result = Readonly<Record<string, unknown>>;

/** Measures losses on text files, given as their documents. */
export async function evaluateText(
  job: EvaluationJob,
  documents: ReadonlyMap<string, readonly string[]>,
): Promise<Result> {
  const passages = new Map<string, readonly Passage[]>();
  for (const [name, texts] of documents) passages.set(name, passagesOf(job.model, job.tokenizer, texts, job.flags));
  return job.flags.perExpert ? textPerExpert(job, passages) : textLosses(job, passages);
}

async function textLosses(job: EvaluationJob, files: ReadonlyMap<string, readonly Passage[]>): Promise<Result> {
  const results: [string, Result][] = [];
  const losses: number[] = [];
  for (const [name, passages] of files) {
    const evaluation = await evaluatePassages(job, passages, withProgress(job, name));
    const { loss, perplexity, tokens } = evaluation;
    results.push([name, { loss, perplexity, tokens }]);
    losses.push(loss);
    job.print(lossRow(name, loss, tokens));
  }
  const meanLoss = mean(losses);
  job.print(lossRow("mean", meanLoss));
  return { files: Object.fromEntries(results), mean_loss: meanLoss };
}

async function textPerExpert(job: EvaluationJob, files: ReadonlyMap<string, readonly Passage[]>): Promise<Result> {
  const { runner, print, experts: names } = job;
  const router = job.hasOwnRouter ? job.router : undefined;
  const evaluations = new Map<string, ExpertEvaluation>();
  for (const [name, passages] of files) {
    const evaluation = await evaluatePerExpert(runner, router, passages, withProgress(job, name));
    evaluations.set(name, evaluation);
    for (const line of expertRows(name, evaluation, names)) print(line);
  }
  const all = [...evaluations.values()];
  const meanLoss = router ? mean(all.map(({ routed }) => routed?.loss ?? NaN)) : null;
  const oracleLoss = mean(all.map(bestLoss));
  const expertLosses = names.map((_, expert) => mean(all.map(({ fixed }) => fixed[expert]?.loss ?? NaN)));
  const bestSingleLoss = Math.min(...expertLosses);
  const besideRouter = (name: string, loss: number): string =>
    row(name, [`loss ${loss.toFixed(4)}`, ...(meanLoss === null ? [] : [`router ${signed(meanLoss - loss)}`])]);
  if (meanLoss !== null) print(lossRow("mean, router", meanLoss));
  print(besideRouter("mean, best per file", oracleLoss));
  print(besideRouter(`mean, ${names[expertLosses.indexOf(bestSingleLoss)]}`, bestSingleLoss));
  return {
    files: Object.fromEntries(Array.from(evaluations, ([name, one]) => [name, fileResult(one, names)])),
    mean_loss: meanLoss,
    mean_oracle_loss: oracleLoss,
    mean_expert_losses: byName(names, expertLosses),
  };
}

function fileResult(evaluation: ExpertEvaluation, names: readonly string[]): Result {
  const { routed, fixed, bestExpert } = evaluation;
  const losses = fixed.map(({ loss }) => loss);
  return {
    loss: routed?.loss ?? null,
    perplexity: routed?.perplexity ?? null,
    tokens: fixed[0]?.tokens ?? 0,
    expert_losses: byName(names, losses),
    best_expert: names[bestExpert],
    oracle_loss: bestLoss(evaluation),
    router_cost: routed?.cost ?? null,
    expert_shares: routed ? byName(names, routed.shares) : null,
    locality: routed?.locality ?? null,
  };
}

/** Measures accuracies on files of multiple-choice questions. */
export async function evaluateRequests(
  job: EvaluationJob,
  files: ReadonlyMap<string, readonly Question[]>,
): Promise<Result> {
  const { model, runner, router, tokenizer, flags } = job;
  const contexts = [model.config.contextTokens, model.router?.config.contextTokens ?? Infinity];
  const maxTokens = flags.sequenceLength ?? Math.min(...contexts);
  const results: [string, Result][] = [];
  for (const [name, questions] of files) {
    const options = { ...withProgress(job, name), maxTokens };
    const evaluation = await evaluateMultipleChoice({ runner, router }, tokenizer, questions, options);
    const { accuracy, normalizedAccuracy, numCut } = evaluation;
    const columns = [`acc ${withError(accuracy)}`, `acc_norm ${withError(normalizedAccuracy)}`];
    showStatus();
    job.print(row(name, [...columns, `${questions.length} documents`]));
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

/** Options that show a file's progress on a terminal. */
function withProgress({ signal }: EvaluationJob, name: string): ScoreOptions {
  return { signal, onProgress: ({ sequences, of }) => showStatus(`${name}: ${sequences} of ${of}`) };
}

const NAME_WIDTH = 20;

function row(name: string, columns: readonly string[]): string {
  return [name.padEnd(NAME_WIDTH), ...columns].join("  ");
}

function lossRow(name: string, loss: number, tokens?: number): string {
  const columns = [`loss ${loss.toFixed(4)}`, `perplexity ${Math.exp(loss).toFixed(2)}`];
  return row(name, [...columns, ...(tokens === undefined ? [] : [`${tokens} tokens`])]);
}

/** Formats a file's losses by expert; the best one has a star. */
function expertRows(
  name: string,
  { routed, fixed, bestExpert }: ExpertEvaluation,
  names: readonly string[],
): readonly string[] {
  const routerRow =
    routed &&
    row("  router", [
      `loss ${routed.loss.toFixed(4)}`,
      `${signed(routed.cost)} to the best expert`,
      `keeps the expert ${percent(routed.locality)} %`,
    ]);
  return [
    `${name}  ${fixed[0]?.tokens ?? 0} tokens`,
    ...(routerRow === undefined ? [] : [routerRow]),
    ...fixed.map(({ loss }, expert) => {
      const share = routed ? [`share ${percent(routed.shares[expert] ?? 0)} %`] : [];
      return row(`${expert === bestExpert ? "*" : " "} ${names[expert]}`, [`loss ${loss.toFixed(4)}`, ...share]);
    }),
  ];
}

function withError({ value, standardError }: Accuracy): string {
  return value.toFixed(4) + (standardError === undefined ? "" : ` ± ${standardError.toFixed(4)}`);
}

function bestLoss({ fixed, bestExpert }: ExpertEvaluation): number {
  return fixed[bestExpert]?.loss ?? NaN;
}

function byName(names: readonly string[], values: readonly number[]): Readonly<Record<string, number>> {
  return Object.fromEntries(names.map((name, index) => [name, values[index] ?? NaN]));
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
