// Refactors a dense model into a Read-ME model folder: data, layers, router, losses, report.

import { endOfTextId, resolveCacheFolder, type Model, type Tokenizer } from "@readme-moe/model";
import {
  fitModel,
  type FittedModel,
  domainCosts,
  expertsOfDomains,
  groupTexts,
  trainModelRouter,
  writeModel,
} from "./job/stages.ts";
import { finishFolder, refuseOccupied, WorkFolder } from "./job/work-folder.ts";
import { chooseSizes, firstSizes } from "./job/layer-sizes.ts";
import { makeReport } from "./job/make-report.ts";
import { prepareDomain, type DomainData, type DomainText } from "./job/prepare-domain.ts";
import { Stages, type RefactorJob, refuseMixture } from "./job/refactor-job.ts";
import { Products } from "./linear-algebra/matrix.ts";
import { measureModel } from "./losses/evaluate-variants.ts";
import { resolveOptions, type RefactorOptions, type RefactorRun, type ResolvedOptions } from "./options.ts";
import { reportDocuments } from "./report/model-card.ts";
import type { Report } from "./report/report.ts";

/**
 * Refactors a dense model into a mixture of experts, by default one for each of `texts`, and writes it to `out`.
 *
 * Work is kept in `<out>.unfinished` until it is done. Memory holds one layer at a time, and the hidden states of all
 * calibration tokens.
 *
 * @param texts - of each domain; every twelfth document is held out
 * @param out - a folder that does not exist yet, or is empty
 * @throws {TypeError | RangeError} on wrong options, sizes that do not fit the model, or too little text, before any
 *   long work
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` when the model is not a dense one; `ERR_WRITE_FAILED`
 */
export async function refactor(
  model: Model,
  texts: readonly DomainText[],
  out: string,
  options: RefactorOptions & RefactorRun = {},
): Promise<Report> {
  const resolved = resolveOptions(options);
  refuseMixture(model);
  const sizes = firstSizes(model, resolved);
  refuseEqualNames(texts);
  await refuseOccupied(out);
  const { tokenizer } = await model.loadText();
  const stages = new Stages(options.onProgress);
  const data = await stages.run("data", () => prepareAll(model, tokenizer, texts, resolved));
  const fingerprint = await model.fingerprint(resolveCacheFolder());
  const work = await WorkFolder.open(out, { options: resolved, texts, model: fingerprint }, options.resume);
  const setting = { model, tokenizer, texts, data, options: resolved, sizes, work, stages, run: options, fingerprint };
  const grouped = { ...setting, grouping: await stages.run("clusters", () => groupTexts(setting)) };

  const { job, fitted } = await fitAll(grouped);
  const costs = domainCosts(job, fitted);
  const router = await stages.run("router", () => trainModelRouter(job, fitted, costs));
  const folder = work.file("model");
  await stages.run("model", () => writeModel(job, folder, router, fitted));
  const expertOf = expertsOfDomains(job.grouping, costs);
  const measured = await stages.run("losses", () => measureModel(job, folder, expertOf));
  const results = { fitted, routerParameters: router.parameters, measured, expertOf, fingerprint };
  const report = await makeReport(job, results);
  await finishFolder(folder, out, await reportDocuments(report));
  await work.remove();
  await fitted.removeResults?.();
  return report;
}

/** Chooses the sizes of the layers and fits them. @returns the job with these sizes, too */
async function fitAll(given: RefactorJob): Promise<{ readonly job: RefactorJob; readonly fitted: FittedModel }> {
  const { run, stages } = given;
  const products = await Products.open(run.threads);
  try {
    const job = { ...given, sizes: await stages.run("sizes", () => chooseSizes(given, products)) };
    return { job, fitted: await stages.run("layers", () => fitModel(job, products)) };
  } finally {
    await products.dispose();
  }
}

function prepareAll(
  { config }: Model,
  tokenizer: Tokenizer,
  texts: readonly DomainText[],
  options: ResolvedOptions,
): readonly DomainData[] {
  const sequenceTokens = Math.min(options.sequenceTokens, config.contextTokens);
  const shared = { ...options, sequenceTokens, endOfText: endOfTextId(tokenizer, config.eosTokenIds) };
  return texts.map((text) => prepareDomain(text, tokenizer, shared));
}

function refuseEqualNames(texts: readonly DomainText[]): void {
  if (texts.length === 0) throw new RangeError("Expected text of at least one domain, got none");
  const names = texts.map(({ name }) => name);
  const wrong = names.find((name, index) => name === "" || names.indexOf(name) !== index);
  if (wrong === undefined) return;
  throw new RangeError(`Expected domains to have names, all different, got ${JSON.stringify(wrong)}`);
}
