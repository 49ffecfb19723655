// Trains the experts of all kinds of text: the one that they share, each kind's own, and the one for comparison. Each
// keeps its work in files of its own, so that finished ones are read again.

import { evaluationOf, restoreParameters, train, type TuningHistory } from "../tuning/train.ts";
import type { TextSequence, TuningData } from "../tuning/tuning-data.ts";
import type { AdaptedModel } from "./adapted-model.ts";
import { copyAdapter, roundAdapter, type Adapter } from "./adapter.ts";
import { AdapterTrainer } from "./adapter-trainer.ts";
import type { LowRankRun, LowRankStage, ResolvedLowRankOptions } from "./options.ts";
import { planOf, type PartName, type Schedule } from "./schedule.ts";

/** Everything that the trainings of one job have in common. */
export interface ExpertTraining {
  readonly model: AdaptedModel;
  /** Names of the kinds of text, and of their experts. */
  readonly names: readonly string[];
  /** Expert that changes nothing yet. */
  readonly start: Adapter;
  readonly training: readonly TextSequence[];
  /** Held-out sequences that choose among the parameters of a training. */
  readonly validation: readonly TextSequence[];
  /** Mean loss of the dense model for each of `validation`. */
  readonly denseLosses: readonly number[];
  readonly schedule: Schedule;
  readonly options: ResolvedLowRankOptions;
  readonly run: Pick<LowRankRun, "signal" | "onProgress" | "checkpointMs">;
  /** Returns the path of a file of unfinished work. */
  readonly file: (name: string) => string;
}

export interface TrainedExpert {
  readonly adapter: Adapter;
  readonly history: TuningHistory;
}

export interface TrainedExperts {
  /** `undefined` when each expert began from zero. */
  readonly shared: TrainedExpert | undefined;
  /** One of each kind of text. */
  readonly own: readonly TrainedExpert[];
  readonly rival: TrainedExpert | undefined;
}

/** Trains all experts; their factors are those of the best evaluations, rounded to half precision. */
export async function trainExperts(job: ExpertTraining): Promise<TrainedExperts> {
  const { names, schedule, options } = job;
  const shared = schedule.sharedSteps > 0 ? await trainPart(job, "shared", undefined) : undefined;
  const own: TrainedExpert[] = [];
  for (const kind of names.keys()) own.push(await finish(job, await trainPart(job, { kind }, shared)));
  const rival = options.rival ? await finish(job, await trainPart(job, "rival", shared)) : undefined;
  return { shared: shared && { adapter: shared.trainer.adapter, history: shared.history }, own, rival };
}

interface TrainedPart {
  readonly trainer: AdapterTrainer;
  readonly history: TuningHistory;
  readonly bestPath: string;
}

async function trainPart(job: ExpertTraining, part: PartName, from: TrainedPart | undefined): Promise<TrainedPart> {
  const { model, names, start, schedule, options, run, file } = job;
  const [stage, name] = nameOf(part, names);
  const trainer = new AdapterTrainer(model, copyAdapter(start), run.signal);
  if (from) trainer.continueFrom(from.trainer);
  const isMeasured = ({ domain }: TextSequence): boolean => typeof part === "string" || domain === part.kind;
  const evaluation = job.validation.filter(isMeasured).map((sequence) => asOnlyKind(sequence, part));
  const dense = job.denseLosses.filter((_, index) => isMeasured(job.validation[index]!));
  const data: TuningData<TextSequence> = { training: job.training, evaluation };
  const fileName = typeof part === "string" ? part : `expert-${part.kind}`;
  const bestPath = file(`${fileName}-best.safetensors`);
  const history = await train(trainer, trainer.adapter, planOf(part, schedule, options), {
    files: { checkpoint: file(`${fileName}.safetensors`), best: bestPath },
    checkpointMs: run.checkpointMs ?? 300_000,
    signal: run.signal,
    onProgress: ({ step, steps, etaMs, ...figures }) => run.onProgress?.({ stage, name, step, steps, etaMs, figures }),
    data: async () => data,
    teacher: evaluationOf(0, evaluation, dense),
  });
  return { trainer, history, bestPath };
}

async function finish({ start }: ExpertTraining, { history, bestPath }: TrainedPart): Promise<TrainedExpert> {
  const adapter = copyAdapter(start);
  await restoreParameters(bestPath, adapter);
  roundAdapter(adapter);
  return { adapter, history };
}

/** Evaluations average over the kinds that they measure. */
function asOnlyKind(sequence: TextSequence, part: PartName): TextSequence {
  return typeof part === "string" ? sequence : { ...sequence, domain: 0 };
}

function nameOf(part: PartName, names: readonly string[]): readonly [LowRankStage, string] {
  if (part === "shared") return ["shared", "shared"];
  return part === "rival" ? ["rival", "one for all"] : ["expert", names[part.kind] ?? ""];
}
