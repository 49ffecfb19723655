// A Read-ME model and its dense teacher in, the tuned model's folder out.

import { createHash } from "node:crypto";
import { resolve } from "node:path";
import { resolveCacheFolder, type Model } from "@readme-moe/model";
import type { DomainText } from "../data/prepare-domain.ts";
import { finishFolder, refuseOccupied } from "../job/finish-folder.ts";
import { WorkFolder } from "../job/work-folder.ts";
import { readDecoderWeights } from "./decoder/decoder-weights.ts";
import { checkModels } from "./job/check-models.ts";
import { prepareTexts, routeAll, type Route, type TextData } from "./job/tuning-data.ts";
import { keptRouter, withKeptRouter, withOwnRouter, type KeptRouter } from "./job/tuning-router.ts";
import { resolveTuneOptions, type TuneOptions } from "./options.ts";
import { tuningDocuments } from "./result/tuning-documents.ts";
import { tuningReport, type TuningReport } from "./result/tuning-report.ts";
import { writeTuned } from "./result/write-tuned.ts";
import { restoreParameters } from "./training/checkpoint.ts";
import { estimate, type TuneEstimate } from "./training/estimate.ts";
import { bestOf } from "./training/history.ts";
import type { RoutedSequence } from "./training/sequences.ts";
import { chooseParameters } from "./training/trainable.ts";
import { stepsOfRound, train, type TuneProgress, type TuningData } from "./training/train.ts";
import { Trainer } from "./training/trainer.ts";

/** How a tuning runs, and what its report calls the models. */
export interface TuneRun {
  /** What the models were called by their user, for the report. @default their paths */
  readonly source?: string | undefined;
  readonly teacherSource?: string | undefined;
  /** Goes on with unfinished work for the same folder. @default false */
  readonly resume?: boolean | undefined;
  /** Of the inference runtime. @default all cores */
  readonly threads?: number | undefined;
  /** Once it is aborted, a checkpoint is written, and its reason thrown. */
  readonly signal?: AbortSignal | undefined;
  /** Called once, before the first step. */
  readonly onEstimate?: ((estimate: TuneEstimate) => void) | undefined;
  readonly onProgress?: ((progress: TuneProgress) => void) | undefined;
  /** How much work a killed process loses at most, about. @default 300000 */
  readonly checkpointMs?: number | undefined;
}

/**
 * Tunes a Read-ME model: it learns to say what its dense teacher says. Writes the parameters of the least loss on held-out
 * text to `out`, with a report.
 *
 * Until it is done, work is kept in `<out>.unfinished`. The same models, texts and options give the same folder on the same
 * machine with as many threads, however often it was ended and resumed. Memory holds both models as float32, and two running
 * means of each trained parameter.
 *
 * @param texts - of each kind; every twelfth document is held out
 * @param out - a folder that does not exist yet, or is empty
 * @throws {TypeError | RangeError} on wrong options or too little text; before any long work
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` when the models are not what they should be; `ERR_WRITE_FAILED`
 */
export async function tune(
  student: Model,
  teacher: Model,
  texts: readonly DomainText[],
  out: string,
  options: TuneOptions = {},
  run: TuneRun = {},
): Promise<TuningReport> {
  const resolved = resolveTuneOptions(options);
  checkModels(student, teacher);
  await refuseOccupied(out);
  if (texts.length === 0) throw new RangeError("Expected text of at least one kind, got none");
  const start = performance.now();
  const data = await prepareTexts(student, texts, resolved);
  const cache = resolveCacheFolder();
  const models = [await student.fingerprint(cache), await teacher.fingerprint(cache)];
  const job = { options: resolved, texts: createHash("sha256").update(JSON.stringify(texts)).digest("hex"), models };
  const work = await WorkFolder.open(`${resolve(out)}.unfinished`, job, { resume: run.resume ?? false });

  const weights = { student: await readDecoderWeights(student), teacher: await readDecoderWeights(teacher) };
  const parameters = chooseParameters(weights.student, resolved);
  const { threads, signal } = run;
  const trainer = new Trainer(student.config, weights, parameters, { ...resolved, threads, signal });
  try {
    const routerOf = async (round: number): Promise<KeptRouter | undefined> =>
      round === 0
        ? undefined
        : keptRouter(work.file(`router-${round}.safetensors`), {
            student,
            trainer,
            embedding: weights.student.embedding,
            sequences: data.training,
            options: resolved,
            threads,
            signal,
          });
    const routed = new RoutedTexts(data, signal, async (round, use) => {
      const router = await routerOf(round);
      return router
        ? withKeptRouter(router, threads, use)
        : withOwnRouter(student, { cacheFolder: work.file("cache"), threads }, use);
    });
    const first = await routed.ofRound(0);
    const sample = Array.from({ length: resolved.microSequences }, (_, i) => first.training[i % first.training.length]);
    const numEvaluated = data.evaluation.length;
    run.onEstimate?.(await estimate(trainer, parameters, sample as readonly RoutedSequence[], resolved, numEvaluated));
    const files = { checkpoint: work.file("tuning.safetensors"), best: work.file("best.safetensors") };
    const history = await train(trainer, parameters, resolved, {
      files,
      checkpointMs: run.checkpointMs ?? 300_000,
      signal,
      onProgress: run.onProgress,
      data: (step) => routed.ofRound(Math.floor(step / stepsOfRound(resolved))),
    });
    const bestRound = Math.floor(Math.max(0, bestOf(history).step - 1) / stepsOfRound(resolved));
    const router = await routerOf(bestRound);
    await restoreParameters(files.best, parameters);
    const report = tuningReport({
      model: run.source ?? student.path,
      teacher: run.teacherSource ?? teacher.path,
      options: resolved,
      trainedParameters: parameters.reduce((sum, { values }) => sum + values.length, 0),
      seconds: (performance.now() - start) / 1000,
      domains: data.domains,
      history,
    });
    const folder = work.file("model");
    await work.clear("model");
    await writeTuned(folder, student, weights.student, router, { teacher: report.teacher, options: resolved });
    await finishFolder(folder, out, await tuningDocuments(student, report));
    await work.remove();
    return report;
  } finally {
    await trainer.dispose();
  }
}

/** Texts with the routes of the router of a round; those of one round are in memory. */
class RoutedTexts {
  readonly #data: TextData;
  readonly #signal: AbortSignal | undefined;
  readonly #withRoute: (round: number, use: (route: Route) => Promise<TuningData>) => Promise<TuningData>;
  #latest: { readonly round: number; readonly data: Promise<TuningData> } | undefined;

  constructor(
    data: TextData,
    signal: AbortSignal | undefined,
    withRoute: (round: number, use: (route: Route) => Promise<TuningData>) => Promise<TuningData>,
  ) {
    this.#data = data;
    this.#signal = signal;
    this.#withRoute = withRoute;
  }

  ofRound(round: number): Promise<TuningData> {
    if (this.#latest?.round !== round) this.#latest = { round, data: this.#routed(round) };
    return this.#latest.data;
  }

  #routed(round: number): Promise<TuningData> {
    return this.#withRoute(round, async (route) => ({
      training: await routeAll(this.#data.training, route, this.#signal),
      evaluation: await routeAll(this.#data.evaluation, route, this.#signal),
    }));
  }
}
