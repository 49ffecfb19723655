// What the command `tune` prints.

import type { LowRankProgress, LowRankReport, TuneEstimate, TuneProgress, TuningReport } from "@readme-moe/refactor";
import { showStatus, signed } from "./terminal.ts";

/** Shows the time and memory that a tuning will take. */
export function showEstimate({ trainedParameters, steps, tokensPerS, ms, memoryBytes }: TuneEstimate): void {
  console.error(
    `Training ${(trainedParameters / 1e6).toFixed(1)} million parameters in ${steps} steps, at about ` +
      `${tokensPerS.toFixed(0)} tokens/s in ${duration(ms)} and ${(memoryBytes / 1e9).toFixed(1)} GB of memory.`,
  );
}

/** Shows a step of a tuning. */
export function showProgress(progress: TuneProgress): void {
  const { step, steps, divergence, crossEntropy, tokensPerS, etaMs, evaluation } = progress;
  const line =
    `step ${step} of ${steps}  divergence ${divergence.toFixed(4)}  loss ${crossEntropy.toFixed(4)}  ` +
    `${tokensPerS.toFixed(0)} tokens/s  ${duration(etaMs)} left`;
  showLine(evaluation ? `${line}  held out ${evaluation.mean.toFixed(4)}` : line, evaluation !== undefined);
}

/** Shows a step of a training of low-rank experts. */
export function showLowRankProgress({ stage, name, step, steps, etaMs, figures }: LowRankProgress): void {
  const part = stage === "expert" ? `experts of ${name}` : name;
  const at = `${part}: step ${step} of ${steps}`;
  if (!figures) return showLine(at, false);
  const { crossEntropy, tokensPerS, evaluation } = figures;
  const line = `${at}  loss ${crossEntropy.toFixed(4)}  ${tokensPerS.toFixed(0)} tokens/s  ${duration(etaMs)} left`;
  showLine(evaluation ? `${line}  held out ${evaluation.mean.toFixed(4)}` : line, evaluation !== undefined);
}

/** Shows a line in place of the one before on a terminal, unless it is to stay. */
function showLine(line: string, stays: boolean): void {
  if (stays) showStatus();
  if (!stays && process.stderr.isTTY) showStatus(line);
  else console.error(line);
}

/** Describes low-rank experts that were trained. */
export function lowRankSummary(
  { dense, rival, label, router, tokens }: LowRankReport,
  model: string,
  out: string,
): string {
  return [
    row("dense", dense),
    ...(rival ? [row("one for all", rival)] : []),
    row("own expert", label),
    row("router", router),
    "",
    `Trained on ${tokens} tokens. Written to ${out}: try \`readme-moe chat ${model} --lora ${out}\`.`,
  ].join("\n");
}

/** Describes a model that was tuned. */
export function summaryOf({ dense, before, after, tokens }: TuningReport, out: string): string {
  return [
    row("dense", dense),
    row("before", before),
    row("tuned", after),
    "",
    `Trained on ${tokens} tokens. Written to ${out}: try \`readme-moe chat ${out}\`.`,
  ].join("\n");
}

function row(name: string, { mean, above_dense: above }: TuningReport["dense"]): string {
  return `${name.padEnd(11)} loss ${mean.toFixed(4)}  ${signed(above)}`;
}

function duration(ms: number): string {
  const seconds = Math.round(ms / 1000);
  if (seconds < 120) return `${seconds} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 120 ? `${minutes} min` : `${(minutes / 60).toFixed(1)} h`;
}
