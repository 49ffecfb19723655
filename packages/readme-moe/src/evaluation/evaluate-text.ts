import {
  evaluatePassages,
  evaluatePerExpert,
  type ExpertEvaluation,
  type Passage,
  passagesOf,
} from "@readme-moe/engine/evaluation";
import { type EvaluationJob, withProgress } from "./evaluation-job.ts";
import { expertRows, lossRow, row, signed } from "./report-rows.ts";

/** For JSON. */
type Result = Readonly<Record<string, unknown>>;

/** Losses on text files, given as their documents; one after the other, each shown when it is known. */
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
    const evaluation = await evaluatePassages(
      { runner: job.runner, router: job.router },
      passages,
      withProgress(job, name),
    );
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
  const { model, runner } = job;
  const expertNames = model.experts.names;
  const router = model.router ? job.router : undefined;
  const evaluations = new Map<string, ExpertEvaluation>();
  for (const [name, passages] of files) {
    const evaluation = await evaluatePerExpert(runner, router, passages, withProgress(job, name));
    evaluations.set(name, evaluation);
    for (const line of expertRows(name, evaluation, expertNames)) job.print(line);
  }
  const all = [...evaluations.values()];
  const meanLoss = router ? mean(all.map(({ routed }) => routed?.loss ?? NaN)) : null;
  const oracleLoss = mean(all.map(bestLoss));
  const expertLosses = expertNames.map((_, expert) => mean(all.map(({ fixed }) => fixed[expert]?.loss ?? NaN)));
  const bestSingle = expertLosses.indexOf(Math.min(...expertLosses));
  const bestSingleLoss = expertLosses[bestSingle] as number;
  const againstRouter = (loss: number): readonly string[] =>
    meanLoss === null ? [] : [`router ${signed(meanLoss - loss)}`];
  if (meanLoss !== null) job.print(lossRow("mean, router", meanLoss));
  job.print(row("mean, best per file", [`loss ${oracleLoss.toFixed(4)}`, ...againstRouter(oracleLoss)]));
  job.print(
    row(`mean, ${expertNames[bestSingle]}`, [`loss ${bestSingleLoss.toFixed(4)}`, ...againstRouter(bestSingleLoss)]),
  );
  return {
    files: Object.fromEntries(Array.from(evaluations, ([name, one]) => [name, fileResult(one, expertNames)])),
    mean_loss: meanLoss,
    mean_oracle_loss: oracleLoss,
    mean_expert_losses: byName(expertNames, expertLosses),
  };
}

function fileResult(evaluation: ExpertEvaluation, expertNames: readonly string[]): Result {
  const { routed, fixed, bestExpert } = evaluation;
  return {
    loss: routed?.loss ?? null,
    perplexity: routed?.perplexity ?? null,
    tokens: fixed[0]?.tokens ?? 0,
    expert_losses: byName(
      expertNames,
      fixed.map(({ loss }) => loss),
    ),
    best_expert: expertNames[bestExpert],
    oracle_loss: bestLoss(evaluation),
    router_cost: routed?.cost ?? null,
    expert_shares: routed ? byName(expertNames, routed.shares) : null,
    locality: routed?.locality ?? null,
  };
}

function bestLoss({ fixed, bestExpert }: ExpertEvaluation): number {
  return fixed[bestExpert]?.loss ?? NaN;
}

function byName(names: readonly string[], values: readonly number[]): Readonly<Record<string, number>> {
  return Object.fromEntries(names.map((name, index) => [name, values[index] as number]));
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
