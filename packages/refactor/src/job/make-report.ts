// Makes the report of a refactoring from its results.

import { availableParallelism } from "node:os";
import { basename, extname } from "node:path";
import { modelLicense, type Model } from "@readme-moe/model";
import type { DomainLosses, Measurement } from "../losses/evaluate-variants.ts";
import {
  expertOverlap,
  LOSS_LABELS,
  lossRow,
  routedText,
  type LossId,
  REPORT_VERSION,
  type LossRow,
  type Report,
  type RouterReport,
} from "../report/report.ts";
import { verdictOf } from "../report/verdict.ts";
import { evaluateRoutes } from "../router-training/routes.ts";
import { type FittedModel, oneOrMany } from "./stages.ts";
import { readFamily } from "./work-folder.ts";
import type { RefactorJob } from "./refactor-job.ts";

interface Results {
  readonly fitted: FittedModel;
  readonly routerParameters: number;
  readonly measured: Measurement;
  readonly fingerprint: string;
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
    data: data.map((domain, index) => {
      const { files = [], licenses = [] } = texts[index] ?? {};
      return {
        name: domain.name,
        files: files.map((file) => basename(file)),
        calibration_documents: domain.calibrationDocuments,
        held_out_documents: domain.heldOutDocuments,
        calibration_tokens: tokensOf(domain.calibration),
        router_tokens: tokensOf(domain.routerText),
        evaluation_tokens: tokensOf(domain.evaluation),
        ...(licenses.length > 0 ? { licenses } : {}),
      };
    }),
    settings: {
      method: options.method,
      experts,
      expert_size: oneOrMany(fitted.sizes.map(({ expertSize }) => expertSize)),
      shared_size: oneOrMany(fitted.sizes.map(({ sharedSize }) => sharedSize)),
      calibration_tokens: options.calibrationTokens,
      seed: options.seed,
      options: Object.fromEntries(
        Object.entries(options).flatMap(([name, value]) => (value === undefined ? [] : [[name, value]])),
      ),
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
    layers: fitted.sizes.map(({ expertSize, sharedSize }, index) => ({
      expert_size: expertSize,
      shared_size: sharedSize,
      relative_errors: fitted.figures[index] ?? {},
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

function lossRows({ data, model, sizes }: RefactorJob, { losses }: Measurement): readonly LossRow[] {
  const named = (values: DomainLosses): Record<string, number> =>
    Object.fromEntries(data.map(({ name }, domain) => [name, values[domain] ?? NaN]));
  const dense = named(losses.get("dense") ?? []);
  const { numLayers, intermediateSize } = model.config;
  const share = sizes.usedSizes.reduce((sum, size) => sum + size, 0) / (numLayers * intermediateSize);
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
  const size = sequenceTokens * numExperts;
  const routed = sequences.map((tokenIds, index) => ({
    tokenIds,
    domain: domains[index]!,
    experts: routes.subarray(index * sequenceTokens, (index + 1) * sequenceTokens),
    costs: costs.subarray(index * size, (index + 1) * size),
  }));
  const figures = evaluateRoutes(routed, numExperts);
  const mean = (id: LossId): number => losses.find((row) => row.id === id)?.mean ?? NaN;
  const byDomain = data.map(({ name }, domain) => ({
    name,
    own: routed.filter((sequence) => sequence.domain === domain),
  }));
  const agreeing = routed.flatMap(({ experts, domain }) =>
    Array.from(experts).filter((expert) => expert === expertOf[domain]),
  );
  return {
    above_oracle_domain: mean("ours") - mean("oracle_domain"),
    regret: figures.regret,
    domain_agreement: agreeing.length / routes.length,
    locality: figures.locality,
    expert_shares: figures.shares,
    domain_shares: byDomain.map(({ own }) => {
      const chosen = own.flatMap(({ experts }) => Array.from(experts));
      return grouping.names.map((_, expert) => chosen.filter((one) => one === expert).length / chosen.length);
    }),
    samples: byDomain.map(({ name, own: [first] }) => {
      const [ids, experts] = [first?.tokenIds ?? new Int32Array(0), first?.experts ?? new Uint16Array(0)];
      const pieces = routedText(tokenizer, ids.subarray(0, SAMPLE_TOKENS), experts.subarray(0, SAMPLE_TOKENS));
      return { domain: name, pieces };
    }),
  };
}

function tokensOf(sequences: readonly Int32Array[]): number {
  return sequences.reduce((sum, { length }) => sum + length, 0);
}

/** Counts a model's parameters. @param neurons - of each layer */
export function parametersOf({ weights, config }: Model, neurons: readonly number[]): number {
  const tables = weights.head === weights.embedding ? [weights.embedding] : [weights.embedding, weights.head];
  const layers = weights.layers.flatMap(({ attention: refs, ...layer }) => {
    const norms = [layer.attentionNorm, layer.attentionOutputNorm, layer.ffnNorm, layer.ffnOutputNorm];
    const products = [refs.query, refs.key, refs.value, refs.output].flatMap(({ weight, bias }) => [weight, bias]);
    return [...norms, refs.queryNorm, refs.keyNorm, ...products].filter((ref) => ref !== undefined);
  });
  const sizes = [...tables, ...layers, weights.finalNorm].map(({ shape }) =>
    shape.reduce((product, size) => product * size, 1),
  );
  return [...sizes, ...neurons.map((count) => count * 3 * config.hiddenSize)].reduce((sum, size) => sum + size, 0);
}
