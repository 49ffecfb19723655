import { availableParallelism } from "node:os";
import { basename, extname } from "node:path";
import { modelLicense, type Model } from "@readme-moe/model";
import type { Measurement } from "../evaluation/measure-model.ts";
import type { DomainLosses } from "../evaluation/evaluate-variants.ts";
import type { RefactorJob } from "../refactor.ts";
import { expertOverlap, LOSS_LABELS, lossRow, routedText, type LossId } from "../report/measurements.ts";
import { REPORT_VERSION, type LossRow, type Report, type RouterReport } from "../report/report.ts";
import { verdictOf } from "../report/verdict.ts";
import { evaluateRoutes } from "../router-training/route-figures.ts";
import type { FittedModel } from "./fit-model.ts";
import { readFamily } from "./layer-file.ts";
import { oneOrMany } from "./one-or-many.ts";

interface Results {
  readonly fitted: FittedModel;
  readonly routerParameters: number;
  readonly measured: Measurement;
  readonly fingerprint: string;
  /** Of each domain, the expert that it stands for. */
  readonly expertOf: readonly number[];
}

const SAMPLE_TOKENS = 96;

export async function makeReport(job: RefactorJob, results: Results): Promise<Report> {
  const { model, data, texts, grouping, options, run, stages } = job;
  const { fitted, measured, fingerprint, routerParameters } = results;
  const { config } = model;
  const experts = grouping.names;
  const losses = lossRows(job, measured);
  const measurement = {
    losses,
    data: data.map((domain, index) => ({
      name: domain.name,
      files: (texts[index]?.files ?? []).map((file) => basename(file)),
      calibration_documents: domain.calibrationDocuments,
      held_out_documents: domain.heldOutDocuments,
      calibration_tokens: tokensOf(domain.calibration),
      router_tokens: tokensOf(domain.routerText),
      evaluation_tokens: tokensOf(domain.evaluation),
      ...(texts[index]?.licenses?.length ? { licenses: texts[index].licenses } : {}),
    })),
    settings: {
      method: options.method,
      experts,
      expert_size: oneOrMany(fitted.sizes.map(({ expertSize }) => expertSize)),
      shared_size: oneOrMany(fitted.sizes.map(({ sharedSize }) => sharedSize)),
      calibration_tokens: options.calibrationTokens,
      seed: options.seed,
      options: givenOf(options),
    },
    expert_losses: measured.expertLosses,
    router: routerReport(job, results, losses),
  };
  const parametersWith = (numExperts: number): number =>
    parametersOf(
      model,
      fitted.sizes.map(({ expertSize, sharedSize }) => sharedSize + numExperts * expertSize),
    );
  const license = await modelLicense(model);
  const neurons: Int32Array[][] = [];
  for (let index = 0; index < config.numLayers; index++) {
    const layer = await readFamily(job.work.layerFile(index), "ours");
    neurons.push(layer.experts.map((part) => part.neurons));
  }
  return {
    version: REPORT_VERSION,
    base: {
      name: basename(model.path, extname(model.path)),
      source: run.source ?? model.path,
      ...(run.hubId === undefined ? {} : { hub_id: run.hubId }),
      ...(license === undefined ? {} : { license }),
      fingerprint,
      model_type: config.modelType,
      num_layers: config.numLayers,
      hidden_size: config.hiddenSize,
      ffn_size: config.intermediateSize,
      parameters: parametersOf(
        model,
        fitted.sizes.map(() => config.intermediateSize),
      ),
    },
    size: {
      parameters: parametersWith(experts.length) + routerParameters,
      active_parameters: parametersWith(1) + routerParameters,
      router_parameters: routerParameters,
    },
    ...measurement,
    overlap: expertOverlap(neurons),
    layers: fitted.figures.map((relative, index) => ({
      expert_size: fitted.sizes[index]?.expertSize as number,
      shared_size: fitted.sizes[index]?.sharedSize as number,
      relative_errors: relative,
    })),
    verdict: verdictOf(measurement),
    time: {
      total_ms: stages.times.reduce((sum, { ms }) => sum + ms, 0),
      stages: stages.times,
      peak_memory_bytes: process.resourceUsage().maxRSS * 1024,
      machine: {
        cores: availableParallelism(),
        threads: run.threads ?? availableParallelism(),
        node: process.version,
        platform: `${process.platform} ${process.arch}`,
      },
    },
  };
}

function givenOf(options: RefactorJob["options"]): Record<string, string | number | boolean> {
  return Object.fromEntries(Object.entries(options).filter((entry) => entry[1] !== undefined)) as Record<
    string,
    string | number | boolean
  >;
}

function lossRows({ data, model, sizes }: RefactorJob, { losses }: Measurement): readonly LossRow[] {
  const named = (values: DomainLosses): Record<string, number> =>
    Object.fromEntries(data.map(({ name }, domain) => [name, values[domain] as number]));
  const dense = named(losses.get("dense") as DomainLosses);
  const share = sizes.usedSize / model.config.intermediateSize;
  return (Object.keys(LOSS_LABELS) as LossId[]).flatMap((id) => {
    const values = losses.get(id);
    return values ? [lossRow(id, id === "dense" ? 1 : share, named(values), dense)] : [];
  });
}

function routerReport(
  { data, grouping, tokenizer }: RefactorJob,
  { measured: { stream, routes, costs }, expertOf }: Results,
  losses: readonly LossRow[],
): RouterReport {
  const { sequenceTokens, sequences, domains } = stream;
  const numExperts = grouping.names.length;
  const ofSequence = (index: number): Uint16Array =>
    routes.subarray(index * sequenceTokens, (index + 1) * sequenceTokens);
  const size = sequenceTokens * numExperts;
  const figures = evaluateRoutes(
    sequences.map((_, index) => ({
      experts: ofSequence(index),
      costs: costs.subarray(index * size, (index + 1) * size),
    })),
    numExperts,
  );
  const mean = (id: LossId): number => losses.find((row) => row.id === id)?.mean ?? NaN;
  const sharesOf = (domain: number): number[] => {
    const own = sequences.flatMap((_, index) => (domains[index] === domain ? Array.from(ofSequence(index)) : []));
    return grouping.names.map((_, expert) => own.filter((chosen) => chosen === expert).length / own.length);
  };
  const domainShares = data.map((_, domain) => sharesOf(domain));
  const agreeing = routes.filter(
    (expert, token) => expert === expertOf[domains[Math.floor(token / sequenceTokens)] as number],
  ).length;
  return {
    above_oracle_domain: mean("ours") - mean("oracle_domain"),
    regret: figures.regret,
    domain_agreement: agreeing / routes.length,
    locality: figures.locality,
    expert_shares: figures.shares,
    domain_shares: domainShares,
    samples: data.map(({ name }, domain) => {
      const index = domains.indexOf(domain);
      const [ids, experts] = [sequences[index] as Int32Array, ofSequence(index)];
      const pieces = routedText(tokenizer, ids.subarray(0, SAMPLE_TOKENS), experts.subarray(0, SAMPLE_TOKENS));
      return { domain: name, pieces };
    }),
  };
}

function tokensOf(sequences: readonly Int32Array[]): number {
  return sequences.reduce((sum, { length }) => sum + length, 0);
}

function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/** @param neurons - of each layer */
function parametersOf({ weights, config }: Model, neurons: readonly number[]): number {
  const tables = weights.head === weights.embedding ? [weights.embedding] : [weights.embedding, weights.head];
  const attention = weights.layers.flatMap(({ attention: refs, inputNorm, postAttentionNorm }) => [
    inputNorm,
    postAttentionNorm,
    ...[refs.query, refs.key, refs.value, refs.output].flatMap(({ weight, bias }) =>
      bias ? [weight, bias] : [weight],
    ),
  ]);
  const backbone = [...tables, ...attention, weights.finalNorm].reduce((sum, { shape }) => sum + sizeOf(shape), 0);
  return backbone + neurons.reduce((sum, size) => sum + size, 0) * 3 * config.hiddenSize;
}
