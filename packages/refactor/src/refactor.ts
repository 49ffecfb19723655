// A dense model in, a Read-ME model folder out: data, layers, router, losses, report.

import { createHash } from "node:crypto";
import { resolve } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { endOfTextId, resolveCacheFolder, type Model, type Tokenizer } from "@readme-moe/model";
import { prepareDomain, type DomainData, type DomainText } from "./data/prepare-domain.ts";
import { fitModel, type FittedModel } from "./job/fit-model.ts";
import { domainCosts, expertsOfDomains } from "./job/domain-costs.ts";
import { groupTexts, type Grouping } from "./job/group-texts.ts";
import { readOnePart, type LayerSizes } from "./job/layer-file.ts";
import { finishFolder, refuseOccupied } from "./job/finish-folder.ts";
import { trainModelRouter } from "./job/train-model-router.ts";
import { WorkFolder } from "./job/work-folder.ts";
import { writeModel } from "./job/write-model.ts";
import { measureModel } from "./evaluation/measure-model.ts";
import { Products } from "./linear-algebra/products.ts";
import {
  planOf,
  resolveOptions,
  resolveSizes,
  type RefactorOptions,
  type ResolvedOptions,
  type Sizes,
} from "./options.ts";
import { makeReport } from "./job/make-report.ts";
import { reportDocuments } from "./report/report-documents.ts";
import type { Report } from "./report/report.ts";
import { Stages, type RefactorProgress } from "./job/stages.ts";

/** How a refactoring runs, and what its report calls the model. */
export interface RefactorRun {
  /** What the model was called by its user, for the report. @default the model's path */
  readonly source?: string | undefined;
  /** Where the model is one of the Hugging Face hub, for the report's model card. */
  readonly hubId?: string | undefined;
  /** Goes on with unfinished work for the same folder. @default false */
  readonly resume?: boolean | undefined;
  /** Of the inference runtime. @default all cores */
  readonly threads?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: RefactorProgress) => void) | undefined;
  /** How much work a killed process loses at most, about. @default 30000 */
  readonly checkpointMs?: number | undefined;
}

/** Everything that the stages of a refactoring share. */
export interface RefactorJob {
  readonly model: Model;
  readonly tokenizer: Tokenizer;
  readonly texts: readonly DomainText[];
  readonly data: readonly DomainData[];
  readonly options: ResolvedOptions;
  readonly sizes: Sizes;
  readonly work: WorkFolder;
  readonly stages: Stages;
  readonly run: RefactorRun;
  readonly grouping: Grouping;
}

/**
 * Refactors a dense model into a mixture with one expert for each of `texts`, and writes it to `out`.
 *
 * Until it is done, work is kept in `<out>.unfinished`. Memory holds one layer at a time, and hidden states of all
 * calibration tokens.
 *
 * @param texts - of each domain; every twelfth document is held out
 * @param out - a folder that does not exist yet, or is empty
 * @throws {TypeError | RangeError} on wrong options, sizes that do not fit the model, too little text; before any long work
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` when the model is no dense one; `ERR_WRITE_FAILED`
 */
export async function refactor(
  model: Model,
  texts: readonly DomainText[],
  out: string,
  options: RefactorOptions = {},
  run: RefactorRun = {},
): Promise<Report> {
  const resolved = resolveOptions(options);
  const sizes = resolveSizes(resolved, model.config);
  refuseMixture(model);
  refuseTwins(texts);
  await refuseOccupied(out);
  const { tokenizer } = await model.loadText();
  const stages = new Stages(run.onProgress);
  const data = await stages.run("data", () => prepareAll(model, tokenizer, texts, resolved));
  const settings = { options: resolved, texts: hashOf(texts), model: await model.fingerprint(resolveCacheFolder()) };
  const work = await WorkFolder.open(`${resolve(out)}.unfinished`, settings, { resume: run.resume ?? false });
  const setting = { model, tokenizer, texts, data, options: resolved, sizes, work, stages, run };
  const job = { ...setting, grouping: await stages.run("clusters", () => groupTexts(setting)) };

  const fitted = await stages.run("layers", () => fitAll(job));
  const costs = domainCosts(fitted, job.grouping, data.length);
  const router = await stages.run("router", () => trainModelRouter(job, fitted, costs));
  const folder = work.file("model");
  await stages.run("model", () => writeAll(job, folder, router, fitted.sizes));
  const expertOf = expertsOfDomains(job.grouping, costs);
  const measured = await stages.run("losses", () => measureModel(job, folder, expertOf));
  const report = await makeReport(job, {
    fitted,
    routerParameters: router.parameters,
    measured,
    expertOf,
    fingerprint: settings.model,
  });
  await finishFolder(folder, out, reportDocuments(report));
  await work.remove();
  return report;
}

async function fitAll({ model, grouping, options, sizes, work, stages, run }: RefactorJob): Promise<FittedModel> {
  const products = await Products.open(run.threads);
  try {
    return await fitModel(model, grouping.groups, planOf(options, sizes), {
      work,
      products,
      threads: run.threads,
      signal: run.signal,
      checkpointMs: run.checkpointMs ?? 30_000,
      nowMs: () => performance.now(),
      onLayer: (done, of) => stages.report("layers", done, of),
    });
  } finally {
    await products.dispose();
  }
}

async function writeAll(
  job: RefactorJob,
  folder: string,
  router: Awaited<ReturnType<typeof trainModelRouter>>,
  sizes: readonly LayerSizes[],
): Promise<void> {
  const { model, grouping, options, work, run } = job;
  await work.clear("model");
  await writeModel(folder, {
    model,
    expertNames: grouping.names,
    expertSizes: sizes.map(({ expertSize }) => expertSize),
    sharedSizes: sizes.map(({ sharedSize }) => sharedSize),
    part: (layer, which) => readOnePart(work.layerFile(layer), "ours", which),
    router,
    provenance: { base: run.source ?? model.path, options },
  });
}

async function prepareAll(
  { config }: Model,
  tokenizer: Tokenizer,
  texts: readonly DomainText[],
  options: ResolvedOptions,
): Promise<readonly DomainData[]> {
  const sequenceTokens = Math.min(options.sequenceTokens, config.contextTokens);
  const shared = { ...options, sequenceTokens, endOfText: endOfTextId(tokenizer, config.eosTokenIds) };
  return texts.map((text) => prepareDomain(text, tokenizer, shared));
}

function refuseMixture({ path, kind, experts }: Model): void {
  if (kind === "dense") return;
  const message = `${path}: is a mixture of ${experts.names.length} experts already (${kind}); only dense models can be refactored`;
  throw new ReadMeError("ERR_MODEL_UNSUPPORTED", message);
}

function refuseTwins(texts: readonly DomainText[]): void {
  if (texts.length === 0) throw new RangeError("Expected text of at least one domain, got none");
  const names = texts.map(({ name }) => name);
  const twin = names.find((name, index) => name === "" || names.indexOf(name) !== index);
  if (twin !== undefined)
    throw new RangeError(`Expected domains to have names, all different, got ${JSON.stringify(twin)}`);
}

function hashOf(value: unknown): string {
  return createHash("sha256").update(JSON.stringify(value)).digest("hex");
}
