// Tunes a Read-ME model with its dense model as teacher, and writes the tuned model's folder.

import { ReadMeError } from "@readme-moe/core";
import { describeMixture, isPlain, resolveCacheFolder, type Model } from "@readme-moe/model";
import type { DomainText } from "../job/prepare-domain.ts";
import { finishFolder, refuseOccupied, WorkFolder } from "../job/work-folder.ts";
import { resolveTuneOptions, stepsOf, type ResolvedTuneOptions, type TuneOptions, type TuneRun } from "./options.ts";
import { chooseParameters, type Sharing, findExpertNeurons, gatesOf, shareInCommon } from "./parameters.ts";
import { bestOf, estimateTuning, restoreParameters, stepsOfRound, train, tuningPlan, Trainer } from "./train.ts";
import { prepareTexts, routeAll, type RoutedSequence, type TuningData } from "./tuning-data.ts";
import { tuningDocuments, tuningReport, type TuningReport } from "./tuning-report.ts";
import { keptRouter, withKeptRouter, withOwnRouter, type KeptRouter } from "./tuning-router.ts";
import { WeightReader } from "./weights.ts";
import { writeTuned } from "./write-tuned.ts";

/** Config fields that student and teacher have in common. */
const SHARED_FIELDS = [
  "vocabSize",
  "hiddenSize",
  "numLayers",
  "numHeads",
  "numKvHeads",
  "headSize",
  "rotatedSize",
  "rmsNormEpsilon",
  "normOffset",
  "qkNorm",
  "activation",
  "embeddingScale",
  "residualScale",
  "attentionScale",
  "logitScale",
] as const;

/** Models of a tuning. */
export interface TuneModels {
  /** Read-ME model that is tuned; it is not changed itself. */
  readonly student: Model;
  /** Dense model that the student was made of. */
  readonly teacher: Model;
}

/**
 * Tunes a Read-ME model on the next-token distributions of its dense teacher. Writes the parameters with the least loss
 * on held-out text to `out`, with a report.
 *
 * Work is kept in `<out>.unfinished` until it is done. The same models, texts and options give the same folder on the
 * same machine with the same number of threads, however often the work was interrupted and resumed. Memory holds both
 * models (frozen weights in 8 bits or blocks), and two running means of each trained parameter.
 *
 * @param texts - of each kind; every twelfth document is held out
 * @param out - a folder that does not exist yet, or is empty
 * @throws {TypeError | RangeError} on wrong options or too little text, before any long work
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` when the models cannot be tuned together; `ERR_WRITE_FAILED`
 */
export async function tune(
  { student, teacher }: TuneModels,
  texts: readonly DomainText[],
  out: string,
  options: TuneOptions & TuneRun = {},
): Promise<TuningReport> {
  const resolved = resolveTuneOptions(options);
  checkModels(student, teacher);
  if (resolved.sharing === "neurons") checkWidths(student, teacher);
  await refuseOccupied(out);
  if (texts.length === 0) throw new RangeError("Expected text of at least one kind, got none");
  const startMs = performance.now();
  const data = await prepareTexts(student, texts, resolved);
  const cache = resolveCacheFolder();
  const models = [await student.fingerprint(cache), await teacher.fingerprint(cache)];
  const work = await WorkFolder.open(out, { options: resolved, texts, models }, options.resume);

  const reader = new WeightReader(resolved.frozen, options.threads);
  const weights = { student: await reader.read(student, true), teacher: await reader.read(teacher, false) };
  const sharing = await sharingOf({ student, teacher }, { ...options, ...resolved });
  const trained = chooseParameters(weights.student, { ...resolved, sharing });
  const { parameters } = trained;
  const trainedParameters = parameters.reduce((sum, { values }) => sum + values.length, 0);
  const { threads, signal } = options;
  const keepsTaught = data.training.length < stepsOf(resolved) * resolved.batchSequences;
  const trainer = new Trainer(student.config, weights, trained, { ...resolved, threads, signal, keepsTaught });
  const routerOf = async (round: number): Promise<KeptRouter | undefined> => {
    if (round === 0) return undefined;
    const numExperts = student.experts.names.length;
    return keptRouter(work.file(`router-${round}.safetensors`), {
      config: student.config,
      numExperts,
      costs: (sequences) => trainer.divergences(sequences, numExperts),
      embedding: weights.student.embedding,
      sequences: data.training,
      options: resolved,
      threads,
      signal,
    });
  };
  // Routes of the latest round only are in memory.
  let latest: { readonly round: number; readonly data: Promise<TuningData> } | undefined;
  const routedData = (round: number): Promise<TuningData> => {
    const route = async (): Promise<TuningData> => {
      const router = await routerOf(round);
      return router
        ? withKeptRouter(router, threads, (own) => routeAll(data, own, signal))
        : withOwnRouter(student, { cacheFolder: work.file("cache"), threads }, (own) => routeAll(data, own, signal));
    };
    if (latest?.round !== round) latest = { round, data: route() };
    return latest.data;
  };
  try {
    const { training } = await routedData(0);
    const sample = Array.from(
      { length: resolved.microSequences },
      (_, i): RoutedSequence => training[i % training.length]!,
    );
    const numEvaluated = data.evaluation.length;
    options.onEstimate?.(await estimateTuning(trainer, sample, resolved, { trainedParameters, numEvaluated }));
    const files = { checkpoint: work.file("tuning.safetensors"), best: work.file("best.safetensors") };
    const history = await train(trainer, parameters, tuningPlan(resolved), {
      files,
      checkpointMs: options.checkpointMs ?? 300_000,
      signal,
      onProgress: options.onProgress,
      data: (step) => routedData(Math.floor(step / stepsOfRound(resolved))),
    });
    const bestRound = Math.floor(Math.max(0, bestOf(history).step - 1) / stepsOfRound(resolved));
    const router = await routerOf(bestRound);
    await restoreParameters(files.best, parameters);
    const report = tuningReport({
      model: options.source ?? student.path,
      teacher: options.teacherSource ?? teacher.path,
      options: resolved,
      trainedParameters,
      commonNeurons: sharing && shareInCommon(sharing.neurons),
      seconds: (performance.now() - startMs) / 1000,
      domains: data.domains,
      history,
    });
    const folder = work.file("model");
    await work.clear("model");
    const provenance = { teacher: report.teacher, options: resolved };
    await writeTuned(folder, student, { weights: weights.student, trained, router, provenance });
    await finishFolder(folder, out, await tuningDocuments(student, report));
    await work.remove();
    return report;
  } finally {
    await trainer.dispose();
    reader.close();
  }
}

/** Finds the neurons that experts have in common; a model with a single expert has no use for them. */
async function sharingOf(
  { student, teacher }: TuneModels,
  options: Pick<ResolvedTuneOptions, "sharing" | "sharedRank"> & Pick<TuneRun, "threads" | "signal">,
): Promise<Sharing | undefined> {
  if (options.sharing === "none" || student.experts.names.length === 1) return undefined;
  const neurons = await findExpertNeurons({ student: gatesOf(student), teacher: gatesOf(teacher) }, options);
  return { neurons, intermediateSize: teacher.config.intermediateSize, rank: options.sharedRank };
}

function checkModels(student: Model, teacher: Model): void {
  const otherBase = (found: string, expected: string): ReadMeError =>
    unsupported(teacher, `cannot be the teacher: it has ${found}, the model that is tuned has ${expected}`);
  if (student.kind !== "read-me") {
    const advice = "only Read-ME models are tuned: make one of a dense model with `refactor`";
    throw unsupported(student, `is ${whatIs(student)}; ${advice}`);
  }
  if (student.experts.names.length > 1 && !student.router) {
    throw unsupported(student, "has no router, so the experts of its tokens are unknown");
  }
  if (!isPlain(teacher)) {
    const advice = "name the dense model that the experts were made from";
    throw unsupported(
      teacher,
      `is not a dense model, but ${describeMixture(teacher)}, which cannot be the teacher; ${advice}`,
    );
  }
  for (const name of SHARED_FIELDS) {
    const [found, expected] = [teacher.config[name], student.config[name]];
    if (found !== expected) throw otherBase(`${name} ${found}`, `${expected}`);
  }
  if (positionsOf(teacher) !== positionsOf(student)) throw otherBase("other positions", "its own");
}

function whatIs(model: Model): string {
  return model.kind === "dense" ? "a dense model" : describeMixture(model);
}

/** @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` for experts with more neurons than the teacher has */
function checkWidths(student: Model, { config: { intermediateSize } }: Model): void {
  for (const { experts } of student.weights.layers) {
    const width = experts[0]?.gate.weight.shape[0] ?? 0;
    if (width <= intermediateSize) continue;
    throw unsupported(student, `has experts of ${width} neurons; its teacher's ${intermediateSize} cannot be shared`);
  }
}

function positionsOf({ config }: Model): string {
  return JSON.stringify([config.ropes, config.layers]);
}

function unsupported({ path }: Model, problem: string): ReadMeError {
  return new ReadMeError("ERR_MODEL_UNSUPPORTED", `${path}: ${problem}`);
}
