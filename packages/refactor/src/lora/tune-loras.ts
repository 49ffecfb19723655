// Trains experts of low rank over a dense model, and writes them as an expert set.

import { expertNameProblem, resolveCacheFolder, writeExpertSet, type Model } from "@readme-moe/model";
import { refuseMixture } from "../job/refactor-job.ts";
import type { DomainText } from "../job/prepare-domain.ts";
import { refuseOccupied, WorkFolder } from "../job/work-folder.ts";
import { prepareTexts, type TextSequence } from "../tuning/tuning-data.ts";
import { estimateLoras, scheduleOf, sequencesOfKind, computeHere, openTrainingModel } from "./adapter-trainer.ts";
import { routerOfExperts, trainExperts } from "./train-experts.ts";
import { loraDocuments, loraReport, type LoraReport, measureExperts } from "./lora-report.ts";
import { openFleetTraining } from "./machines.ts";
import { resolveLoraOptions, type LoraOptions, type LoraRun } from "./options.ts";
import { changedProducts } from "./model-graph.ts";
import { lossesOfTokens, meanLoss } from "./adapted-model.ts";
import { roundedRouter, setContent } from "./write-experts.ts";

/** Most passes over the text unless the number of tokens is given; short text would be learned by heart. */
const MAX_PASSES = 3;

/**
 * Trains loras of a dense model (LoRA), one for each kind of text, and a router that chooses among them.
 * Writes them to `out` as an expert set: a folder in PEFT's layout for each, the router, and a report with losses on
 * held-out text beside those of the dense model and of one expert that learned from as many tokens of all kinds.
 *
 * Work is kept in `<out>.unfinished` until it is done. The same model, texts and options give the same folder on the
 * same machine with the same number of threads, however often the work was interrupted and resumed, and whichever
 * machines of a fleet took part.
 *
 * @param texts - of each kind, whose names become those of the experts; every twelfth document is held out
 * @param out - a folder that does not exist yet, or is empty
 * @throws {TypeError | RangeError} on wrong options or names, or too little text, before any long work
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` when the model is not dense; `ERR_WRITE_FAILED`
 */
export async function tuneLoras(
  model: Model,
  texts: readonly DomainText[],
  out: string,
  options: LoraOptions & LoraRun = {},
): Promise<LoraReport> {
  const given = resolveLoraOptions(options, texts.length);
  checkNames(texts);
  refuseMixture(model, "experts of low rank are trained over dense models: name one");
  await refuseOccupied(out);
  const startMs = performance.now();
  const { sequenceTokens, rank, alpha } = given;
  const tokens = sequencesOfKind(scheduleOf(given, texts.length), given) * texts.length * sequenceTokens;
  const { training, evaluation, domains } = await prepareTexts(model, texts, { ...given, tokens });
  const mostTokens = options.tokens ?? MAX_PASSES * training.length * sequenceTokens;
  const resolved = { ...given, tokens: Math.min(given.tokens, mostTokens) };
  const schedule = scheduleOf(resolved, texts.length);
  const models = [await model.fingerprint(resolveCacheFolder())] as const;
  const work = await WorkFolder.open(out, { options: resolved, texts, models }, options.resume);

  const { threads, signal, fleet, source = model.path } = options;
  const { adapted, weights, newChange, dispose } = await openTrainingModel(model, resolved, threads);
  const file = (name: string): string => work.file(name);
  const shared = { model: adapted, training, options: resolved, run: options, file };
  try {
    const names = texts.map(({ name }) => name);
    const plan = { options: resolved, numKinds: names.length, training };
    const machines = fleet && (await openFleetTraining(fleet, plan, { fingerprint: models[0], threads, signal }));
    const computeOf = machines?.computeOf ?? (() => computeHere);
    const { validation, test } = splitEvaluation(evaluation);
    const start = newChange(rank, 0);
    const trainedParameters = start.reduce((sum, { values }) => sum + values.length, 0);
    const amount = { schedule, options: resolved, trainedParameters, numEvaluated: evaluation.length };
    options.onEstimate?.(await estimateLoras(adapted, start, training, amount));
    const dense = await lossesOfTokens(adapted, validation, { adapters: [], signal });
    const denseLosses = dense.map(meanLoss);
    const trained = await trainExperts({ ...shared, names, newChange, validation, denseLosses, schedule, computeOf });
    const adapters = trained.own;
    const { config } = model;
    const { embedding } = weights;
    const learned = await routerOfExperts({ ...shared, config, embedding, adapters, sequences: training });
    const router = roundedRouter(learned);
    const measured = await measureExperts({ model: adapted, trained, test, router, threads, signal });
    const report = loraReport({
      model: source,
      options: resolved,
      schedule,
      trainedParameters,
      domains,
      trained,
      seconds: (performance.now() - startMs) / 1000,
      ...measured,
    });
    await writeExpertSet(out, {
      ...setContent({
        experts: adapters.map((adapter, kind) => ({ name: names[kind] ?? "", adapter })),
        router,
        shape: { rank, alpha, products: changedProducts(resolved.attention), base: source },
      }),
      provenance: { base: source, fingerprint: models[0], options: resolved, tokens: report.tokens },
      documents: await loraDocuments(report),
    });
    await work.remove();
    await machines?.close();
    return report;
  } finally {
    await dispose();
  }
}

function checkNames(texts: readonly DomainText[]): void {
  if (texts.length === 0) throw new RangeError("Expected text of at least one kind, got none");
  const seen = new Set<string>();
  for (const { name } of texts) {
    const problem = expertNameProblem(name);
    if (problem !== undefined) {
      throw new RangeError(`Expected the name of a kind of text to be ${problem}, got ${JSON.stringify(name)}`);
    }
    // Folders of names that differ in case are the same on some systems.
    const folded = name.toLowerCase();
    if (seen.has(folded)) throw new RangeError(`Expected kinds of text to have different names, got two \`${name}\``);
    seen.add(folded);
  }
}

/** Divides the held-out sequences of each kind: every second one chooses parameters, unless there is one only. */
function splitEvaluation(evaluation: readonly TextSequence[]): {
  readonly validation: readonly TextSequence[];
  readonly test: readonly TextSequence[];
} {
  const counts = new Map<number, number>();
  const places = evaluation.map(({ domain }) => {
    const place = counts.get(domain) ?? 0;
    counts.set(domain, place + 1);
    return place;
  });
  const some = (rest: number): readonly TextSequence[] =>
    evaluation.filter(({ domain }, index) => counts.get(domain) === 1 || places[index]! % 2 === rest);
  return { validation: some(1), test: some(0) };
}
