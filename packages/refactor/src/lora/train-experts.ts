// Trains the experts of all kinds of text, and the one for comparison. Each training keeps its work in files of its
// own, so that finished ones are read again.

import { existsSync } from "node:fs";
import type { ModelConfig } from "@readme-moe/model";
import { restoreArrays, withFile, writeArrays, type NamedArrays } from "../job/work-folder.ts";
import { evaluationOf, restoreParameters, train, type TuningHistory } from "../tuning/train.ts";
import type { TextSequence, TuningData } from "../tuning/tuning-data.ts";
import { keptRouter, type KeptRouter } from "../tuning/tuning-router.ts";
import { type AdaptedModel, roundAdapter, type Adapter, lossesOfTokens } from "./adapted-model.ts";
import {
  AdapterTrainer,
  planOf,
  type Course,
  type Schedule,
  type ComputeStep,
  changesOf,
  type TrainingModel,
} from "./adapter-trainer.ts";
import type { LoraRun, LoraStage, ResolvedLoraOptions } from "./options.ts";

/** Everything that the trainings of one job have in common. */
interface ExpertTraining {
  readonly model: AdaptedModel;
  /** Names of the kinds of text, and of their experts. */
  readonly names: readonly string[];
  readonly newChange: TrainingModel["newChange"];
  readonly training: readonly TextSequence[];
  /** Held-out sequences that choose among the parameters of a training. */
  readonly validation: readonly TextSequence[];
  /** Mean loss of the dense model for each of `validation`. */
  readonly denseLosses: readonly number[];
  readonly schedule: Schedule;
  readonly options: ResolvedLoraOptions;
  readonly run: Pick<LoraRun, "signal" | "onProgress" | "checkpointMs">;
  /** Returns the path of a file of unfinished work. */
  readonly file: (name: string) => string;
  /** Returns what computes the gradients of a training. */
  readonly computeOf: (course: Course) => ComputeStep;
}

/** One training of one expert or more, with its evaluations. */
interface TrainedPart {
  readonly stage: LoraStage;
  readonly name: string;
  readonly history: TuningHistory;
}

export interface TrainedExperts {
  /** One of each kind of text. */
  readonly own: readonly Adapter[];
  /** One for all kinds, of as many tokens. */
  readonly rival: Adapter | undefined;
  readonly parts: readonly TrainedPart[];
}

interface Part extends TrainedPart {
  readonly trainer: AdapterTrainer;
  readonly bestPath: string;
}

/** Trains all experts; their factors are those of the best evaluations, rounded to half precision. */
export async function trainExperts(job: ExpertTraining): Promise<TrainedExperts> {
  const { names, options, schedule } = job;
  const kinds = [...names.keys()];
  const parts: Part[] = [];
  const add = async (course: Course, setting: PartSetting): Promise<Part> => {
    const part = await trainPart(job, course, setting);
    parts.push(part);
    return part;
  };
  const hasFirst = schedule.firstSteps > 0;
  const first = (): Promise<Part> => add("first", { stage: "shared", name: "all kinds", file: "first" });
  const own: Adapter[] = [];
  let start: Part | undefined;
  if (options.sharing === "ranks") {
    const together = await add("all", { stage: "expert", name: names.join(", "), file: "experts" });
    await restoreParameters(together.bestPath, together.trainer.parameters);
    own.push(...kinds.map((kind) => together.trainer.expertOf(kind)));
  } else {
    if (options.sharing === "start" && hasFirst) start = await first();
    for (const kind of kinds) {
      const setting = { stage: "expert", name: names[kind] ?? "", file: `expert-${kind}`, from: start } as const;
      const part = await add({ kind, isRest: options.sharing === "start" }, setting);
      await restoreParameters(part.bestPath, part.trainer.parameters);
      own.push(part.trainer.expertOf(kind));
    }
  }
  let rival: Adapter | undefined;
  if (options.rival) {
    if (hasFirst) start ??= await first();
    const part = await add("rest", { stage: "rival", name: "one for all", file: "rival", from: start });
    await restoreParameters(part.bestPath, part.trainer.parameters);
    rival = part.trainer.expertOf(0);
  }
  for (const adapter of rival ? [...own, rival] : own) roundAdapter(adapter);
  return { own, rival, parts: parts.map(({ stage, name, history }) => ({ stage, name, history })) };
}

interface PartSetting {
  readonly stage: LoraStage;
  readonly name: string;
  /** Beginning of the names of files. */
  readonly file: string;
  /** Training that this one goes on from. */
  readonly from?: Part | undefined;
}

async function trainPart(job: ExpertTraining, course: Course, { stage, name, file, from }: PartSetting): Promise<Part> {
  const { model, names, schedule, options, run } = job;
  const changes = changesOf(course, job, { ...options, numKinds: names.length });
  const { shards } = options;
  const trainer = new AdapterTrainer(model, changes, { shards, compute: job.computeOf(course), signal: run.signal });
  if (from) trainer.continueFrom(from.trainer);
  const { evaluation, dense } = measuredText(job, course);
  const data: TuningData<TextSequence> = { training: job.training, evaluation };
  const bestPath = job.file(`${file}-best.safetensors`);
  const history = await train(trainer, trainer.parameters, planOf(course, schedule, options), {
    files: { checkpoint: job.file(`${file}.safetensors`), best: bestPath },
    checkpointMs: run.checkpointMs ?? 300_000,
    signal: run.signal,
    onProgress: ({ step, steps, etaMs, ...figures }) => run.onProgress?.({ stage, name, step, steps, etaMs, figures }),
    data: async () => data,
    teacher: evaluationOf(0, evaluation, dense),
  });
  return { stage, name, trainer, history, bestPath };
}

/** Selects the held-out text of a course. A single kind is the first one, since evaluations average over kinds. */
function measuredText({ validation, denseLosses }: ExpertTraining, course: Course) {
  if (typeof course === "string") return { evaluation: validation, dense: denseLosses };
  const isOwn = (_: unknown, index: number): boolean => validation[index]?.domain === course.kind;
  return {
    evaluation: validation.filter(isOwn).map((sequence) => ({ ...sequence, domain: 0 })),
    dense: denseLosses.filter(isOwn),
  };
}

// Router of experts of low rank: it learns from each token's loss with every expert, and with none.

interface ExpertRouting {
  readonly config: ModelConfig;
  readonly model: AdaptedModel;
  /** Embedding of the dense model. */
  readonly embedding: Float32Array;
  readonly adapters: readonly Adapter[];
  /** Text that the experts learned from. */
  readonly sequences: readonly TextSequence[];
  readonly options: ResolvedLoraOptions;
  readonly run: Pick<LoraRun, "signal" | "threads" | "onProgress">;
  /** Returns the path of a file of unfinished work. */
  readonly file: (name: string) => string;
}

/** Reads the router of unfinished work, or trains it. Its outputs are "none", then the experts in their order. */
export async function routerOfExperts(routing: ExpertRouting): Promise<KeptRouter> {
  const { config, embedding, adapters, sequences, options, run, file } = routing;
  const first = { step: 0, ms: 0 };
  const report = ({ step, steps }: { readonly step: number; readonly steps: number }): void => {
    if (first.step === 0) Object.assign(first, { step, ms: performance.now() });
    const msPerStep = (performance.now() - first.ms) / Math.max(1, step - first.step);
    const etaMs = msPerStep * (steps - step);
    run.onProgress?.({ stage: "router", name: "router", step, steps, etaMs, figures: undefined });
  };
  return keptRouter(file("router.safetensors"), {
    config,
    numExperts: adapters.length + 1,
    costs: (measured) => costsOf(routing, measured),
    embedding,
    sequences,
    options,
    threads: run.threads,
    signal: run.signal,
    checkpointPath: file("router-checkpoint.safetensors"),
    onProgress: report,
  });
}

/** Measures each token's loss without and with each expert, `[tokens, adapters + 1]` per sequence. */
async function costsOf(
  { adapters, ...routing }: ExpertRouting,
  sequences: readonly TextSequence[],
): Promise<readonly Float32Array[]> {
  const numExperts = adapters.length + 1;
  const costs = sequences.map(({ tokenIds }) => new Float32Array(tokenIds.length * numExperts));
  for (let expert = 0; expert < numExperts; expert++) {
    const own = await keptLosses(routing, sequences, adapters[expert - 1], expert);
    own.forEach((rows, index) => rows.forEach((loss, row) => (costs[index]![row * numExperts + expert] = loss)));
  }
  return costs;
}

/** Reads losses of unfinished work, or measures them. */
async function keptLosses(
  { model, run, file }: Pick<ExpertRouting, "model" | "run" | "file">,
  sequences: readonly TextSequence[],
  adapter: Adapter | undefined,
  expert: number,
): Promise<readonly Float32Array[]> {
  const path = file(`losses-${expert}.safetensors`);
  if (existsSync(path)) {
    const rows = sequences.map(({ tokenIds }) => new Float32Array(tokenIds.length));
    await withFile(path, (kept) => restoreArrays(kept, named(rows)));
    return rows;
  }
  const { signal } = run;
  const rows = await lossesOfTokens(model, sequences, { adapters: adapter ? [adapter] : [], signal });
  await writeArrays(path, named(rows));
  return rows;
}

function named(rows: readonly Float32Array[]): NamedArrays {
  return rows.map((values, index) => [`${index}`, values]);
}
