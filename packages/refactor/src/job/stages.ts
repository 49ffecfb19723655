// The stages of a refactoring: groups of texts, layers, router, model.

import { existsSync } from "node:fs";
import {
  readTextFile,
  writeFileAtomically,
  type ReadMeContent,
  type SafetensorsInput,
  baseFiles,
  encodeFloats,
  isBlockType,
  isStoredFloat,
  readMeTensors,
  writeReadMeFolder,
  type Model,
  type StoredFloat,
  type TensorRef,
  withFloor,
} from "@readme-moe/model";
import { typeOfWidth } from "../blocks/block-mixes.ts";
import { roundToBlocks } from "../blocks/round-blocks.ts";
import { clusterTexts, type NeuronEnergy } from "../experts/cluster.ts";
import type { Part } from "../experts/select.ts";
import { layerSource, type LayerSource } from "../layers/layer-graphs.ts";
import { runEnergies } from "../layers/run-layer.ts";
import { TokenStream } from "../layers/token-stream.ts";
import { pickRows, type Products } from "../linear-algebra/matrix.ts";
import { routerSection } from "../router-training/router-trainer.ts";
import { splitExamples, repeatedCosts, type RouterExample } from "../router-training/routes.ts";
import { trainRouter } from "../router-training/train-router.ts";
import { fitSetting } from "../tasks/fit-tasks.ts";
import { openFitWork, type FitWork } from "../tasks/fit-work.ts";
import { readCosts, type TaskRunner } from "../tasks/task-runner.ts";
import { fitsOf, passesOf, type Task, type TaskBounds } from "../tasks/task.ts";
import type { RefactorJob, Grouping } from "./refactor-job.ts";
import { type LayerFigures, type LayerSizes, readFigures, readOnePart, readSizes, writeArrays } from "./work-folder.ts";

export interface FittedModel {
  readonly stream: TokenStream;
  /**
   * Costs of each expert, `[tokens, experts]`: squared errors relative to the stream's size, summed over layers; zeros
   * outside of `costSequences`. For the paper's experts, the negated targets of its router's loss, averaged over
   * layers.
   */
  readonly costs: Float32Array;
  readonly costSequences: readonly number[];
  readonly figures: readonly LayerFigures[];
  readonly sizes: readonly LayerSizes[];
  /** Removes the results that machines share; called when the model is written. */
  readonly removeResults: FitWork["removeResults"];
}

/** Fits all layers; one expert is made of each group of sequences. Resumes from finished results. */
export async function fitModel(job: RefactorJob, products: Products): Promise<FittedModel> {
  const { model, grouping, options, work, stages, run, fingerprint } = job;
  const isChosen = options.budget !== undefined;
  const fitOptions = isChosen ? { ...options, budget: undefined, layerSizes: job.sizes.usedSizes } : options;
  const plan = { options: fitOptions, groups: grouping.groups };
  const setting = fitSetting(plan, { model, products, run });
  const { bounds, text } = setting;
  const { numLayers } = bounds;
  const fitWork = await openFitWork({ setting, plan, work, run, fingerprint });
  const { runner } = fitWork;
  let isDone = true;
  for (let layer = 0; layer < numLayers; layer++) {
    const whole: Task = { kind: "layer", layer };
    isDone &&= await runner.isDone(whole);
    if (!isDone) await fitOne(fitWork, bounds, layer);
    // Stages after the fit read layers there.
    if (!existsSync(work.layerFile(layer))) await writeArrays(work.layerFile(layer), await runner.read(whole));
    if (!isDone) {
      await removeUsed(runner, bounds, layer);
      await fitWork.checkpoint?.(false);
    }
    stages.report("layers", layer + 1, numLayers);
  }
  const last: Task = { kind: "costs" };
  await fitWork.run(passesOf(numLayers, bounds), last);
  const costs = readCosts(await runner.read(last));
  await fitWork.checkpoint?.(true);
  const layers = Array.from({ length: numLayers }, (_, index) => work.layerFile(index));
  return {
    stream: text.stream,
    costs,
    costSequences: text.costSequences,
    figures: await Promise.all(layers.map(readFigures)),
    sizes: await Promise.all(layers.map((path) => readSizes(path, "ours"))),
    removeResults: fitWork.removeResults,
  };
}

async function fitOne(work: FitWork, bounds: TaskBounds, layer: number): Promise<void> {
  await work.run(passesOf(layer, bounds), { kind: "pool", layer });
  await work.run(fitsOf(layer, bounds), { kind: "layer", layer });
}

/** Removes what no later layer reads: everything but the layer and the streams behind its attention. */
async function removeUsed(runner: TaskRunner, bounds: TaskBounds, layer: number): Promise<void> {
  for (const task of [{ kind: "pool", layer } as const, ...fitsOf(layer, bounds)]) await runner.remove(task);
  for (const task of passesOf(layer, bounds)) await runner.remove(task, "statistics");
  for (const task of layer > 0 ? passesOf(layer - 1, bounds) : []) await runner.remove(task);
}

// Assigns calibration texts to experts, and experts to domains.

type Setting = Omit<RefactorJob, "grouping">;

const MAX_CLUSTER_FILE_BYTES = 16 << 20;

/** Makes one group for each domain, or clusters of sequences that start as domains. */
export async function groupTexts(job: Setting): Promise<Grouping> {
  const { data, options } = job;
  const numExperts = options.experts ?? data.length;
  if (options.expertsFrom === "domains" && numExperts === data.length) {
    return {
      isByDomain: true,
      names: data.map(({ name }) => name),
      groups: data.map(({ calibration }) => calibration),
      domains: data.map(({ calibration }, domain) => calibration.map(() => domain)),
    };
  }
  const assignment = await clustersOf(job, numExperts);
  const sequences = data.flatMap(({ calibration }, domain) => calibration.map((ids) => ({ ids, domain })));
  const members = Array.from({ length: numExperts }, (_, expert) =>
    sequences.filter((_sequence, index) => assignment[index] === expert),
  ).filter((group) => group.length > 0);
  return {
    isByDomain: false,
    names: members.map((group, index) => `${index} ${clusterName(group, data)}`),
    groups: members.map((group) => group.map(({ ids }) => ids)),
    domains: members.map((group) => group.map(({ domain }) => domain)),
  };
}

/** Names a cluster by the domains that most of it is from, such as `book+c4`. */
function clusterName(group: readonly { readonly domain: number }[], data: Setting["data"]): string {
  const shares = data.map(({ name }, domain) => ({
    name,
    share: group.filter((one) => one.domain === domain).length / group.length,
  }));
  const [first, ...rest] = shares.toSorted((a, b) => b.share - a.share);
  return [first, ...rest.filter(({ share }) => share >= 0.25)].map((one) => one?.name).join("+");
}

/**
 * Finds the cluster of each calibration sequence; kept in the work folder, since it takes a pass of the dense model.
 */
async function clustersOf(job: Setting, numClusters: number): Promise<readonly number[]> {
  const { data, model, sizes, work } = job;
  const path = work.file("clusters.json");
  const known = await readTextFile(path, MAX_CLUSTER_FILE_BYTES);
  if (known !== undefined) return JSON.parse(known);
  const stream = new TokenStream(
    model.config,
    data.map(({ calibration }) => calibration),
    1,
  );
  const energies = await energiesOf(job, stream);
  const size = Math.round(sizes.usedSizes.reduce((sum, one) => sum + one, 0) / sizes.usedSizes.length);
  const { assignment } = clusterTexts(energies, stream.domains, { numClusters, size });
  await writeFileAtomically(path, JSON.stringify(assignment));
  return assignment;
}

async function energiesOf({ model, run, stages }: Setting, stream: TokenStream): Promise<readonly NeuronEnergy[]> {
  const { numLayers } = model.config;
  const hidden = await stream.embed(model);
  const energies: Float32Array[][] = stream.sequences.map(() => []);
  for (let index = 0; index < numLayers; index++) {
    const layer = await runEnergies({ source: layerSource(model, index), stream, options: run }, hidden);
    layer.forEach((energy, sequence) => energies[sequence]?.push(energy));
    stages.report("clusters", index + 1, numLayers);
  }
  return energies;
}

/** Returns the mean cost of each expert on each domain's calibration text, `[domain][expert]`. */
export function domainCosts(
  { data, grouping }: Pick<RefactorJob, "data" | "grouping">,
  { stream, costs, costSequences }: FittedModel,
): readonly Float64Array[] {
  const numExperts = grouping.names.length;
  const domainOf = grouping.domains.flat();
  const size = stream.sequenceTokens * numExperts;
  return data.map((_, domain) => {
    const own = costSequences.filter((sequence) => domainOf[sequence] === domain);
    const sums = new Float64Array(numExperts);
    for (const sequence of own) {
      const rows = costs.subarray(sequence * size, (sequence + 1) * size);
      rows.forEach((cost, at) => (sums[at % numExperts]! += cost));
    }
    // All experts are equally good for a domain without costs.
    return sums.map((sum) => sum / Math.max(1, own.length * stream.sequenceTokens));
  });
}

/** Returns each domain's expert: its own, or the cluster with the lowest cost on the domain. */
export function expertsOfDomains({ isByDomain }: Grouping, costs: readonly Float64Array[]): readonly number[] {
  return costs.map((row, domain) => (isByDomain ? domain : row.indexOf(Math.min(...row))));
}

// Trains the router of a refactored model. Calibration tokens have the measured cost of each expert; further text has
// the mean costs of its domain.

export interface ModelRouter {
  readonly section: ReadMeContent["readme"]["router"];
  readonly tensors: readonly SafetensorsInput[];
  readonly parameters: number;
}

/** @param meanCosts - of each domain's text, `[domain][expert]` */
export async function trainModelRouter(
  job: RefactorJob,
  fitted: FittedModel,
  meanCosts: readonly Float64Array[],
): Promise<ModelRouter> {
  const { model, grouping, options, work, run, stages } = job;
  const { config, weights } = model;
  const isPaper = options.method === "paper";
  const { examples, validation } = splitExamples(routerExamples(job, fitted, meanCosts));
  const { config: shape, tensors } = await trainRouter(examples, {
    numExperts: grouping.names.length,
    vocabSize: config.vocabSize,
    contextTokens: config.contextTokens,
    embedding: {
      values: await weights.embedding.store.readFloats(weights.embedding.name),
      size: config.hiddenSize,
    },
    isPaper,
    localityTokens: isPaper ? 1 : options.localityTokens,
    steps: options.routerSteps,
    validation,
    seed: options.seed,
    threads: run.threads,
    signal: run.signal,
    onProgress: ({ step, steps }) => stages.report("router", step, steps),
    checkpointPath: work.file("router.safetensors"),
  });
  return {
    section: routerSection(shape),
    tensors,
    parameters: tensors.reduce((sum, tensor) => sum + tensor.shape.reduce((product, size) => product * size, 1), 0),
  };
}

/** Scales costs so that the mean expert costs 1 more than a domain's best expert, averaged over domains. */
function routerExamples(
  { data, grouping, options }: RefactorJob,
  { stream, costs, costSequences }: FittedModel,
  meanCosts: readonly Float64Array[],
): readonly RouterExample[] {
  const isPaper = options.method === "paper";
  const spread = isPaper ? 1 : meanSpread(meanCosts);
  const scale = spread > 0 ? 1 / spread : 1;
  const size = stream.sequenceTokens * grouping.names.length;
  const measured = costSequences.map((sequence) => ({
    tokenIds: stream.sequences[sequence]!,
    costs: costs.slice(sequence * size, (sequence + 1) * size).map((cost) => cost * scale),
  }));
  // The paper's router learns from the neurons that tokens activate, which are known for calibration text only.
  if (isPaper) return measured;
  const others = data.flatMap(({ routerText }, domain) => {
    const row = meanCosts[domain]!.map((cost) => cost * scale);
    return routerText.map((tokenIds) => ({ tokenIds, costs: repeatedCosts(row, tokenIds.length) }));
  });
  return [...measured, ...others];
}

function meanSpread(meanCosts: readonly Float64Array[]): number {
  const spreads = meanCosts.map((row) => row.reduce((sum, cost) => sum + cost, 0) / row.length - Math.min(...row));
  return spreads.reduce((sum, spread) => sum + spread, 0) / spreads.length;
}

// Writes the fitted layers as a Read-ME model folder.

/**
 * Writes the folder, whole or not at all. Weights keep the checkpoint's type. Those in blocks keep their bits, but for
 * the down-projections, which are rounded to blocks of the same type. Other quantized weights become half precision.
 *
 * @throws {ReadMeError} `ERR_WRITE_FAILED`
 */
export async function writeModel(
  { model, grouping, options, work, run }: RefactorJob,
  path: string,
  router: ModelRouter,
  { sizes }: FittedModel,
): Promise<void> {
  const { config, texts } = await baseFiles(model);
  const partOf = keepingLast((layer, which) => readOnePart(work.layerFile(layer), "ours", which));
  const [expertSizes, sharedSizes] = [
    sizes.map(({ expertSize }) => expertSize),
    sizes.map(({ sharedSize }) => sharedSize),
  ];
  const tensorsOf = (own: readonly number[], which: number | "shared"): readonly SafetensorsInput[] =>
    own.flatMap((size, layer) => (size === 0 ? [] : partTensors(model, layer, size, () => partOf(layer, which))));
  const tensors = {
    backbone: [
      ...readMeTensors(model.weights, undefined, { keepsBlocks: true }).backbone,
      ...tensorsOf(sharedSizes, "shared"),
    ],
    experts: grouping.names.map((_, expert) => tensorsOf(expertSizes, expert)),
    router: router.tensors,
  };
  const readme: ReadMeContent["readme"] = {
    version: 1,
    num_experts: grouping.names.length,
    expert_names: grouping.names,
    expert_size: oneOrMany(expertSizes),
    shared_size: oneOrMany(sharedSizes),
    ...(router.section ? { router: router.section } : {}),
    provenance: { base: run.source ?? model.path, options },
  };
  await work.clear("model");
  await writeReadMeFolder(path, { config, readme, tensors, documents: texts });
}

/** Reads a part of a layer; one part at a time is in memory. */
type ReadPart = (layer: number, which: number | "shared") => Promise<Part>;

/** Keeps the last part: the tensors of a part are written one after the other. */
function keepingLast(read: ReadPart): ReadPart {
  let last: { readonly key: string; readonly part: Promise<Part> } | undefined;
  return (layer, which) => {
    const key = `${layer} ${which}`;
    if (last?.key !== key) last = { key, part: read(layer, which) };
    return last.part;
  };
}

function partTensors(
  model: Model,
  index: number,
  size: number,
  read: () => Promise<Part>,
): readonly SafetensorsInput[] {
  const source = layerSource(model, index);
  const { hiddenSize } = source.config;
  const type = floatTypeOf(source);
  const prefix = `model.layers.${index}.mlp`;
  const tensor = (name: string, shape: readonly number[], values: () => Promise<Float32Array>): SafetensorsInput => ({
    name: `${prefix}.${name}`,
    type,
    shape,
    bytes: async () => encodeFloats(await values(), type),
  });
  const rows = (name: string, ref: TensorRef, width: number, shape: readonly number[]): SafetensorsInput => {
    const { store, name: stored } = ref;
    const { type: own, byteLength } = store.info(stored);
    if (!isBlockType(own)) {
      return tensor(name, shape, async () => pickRows(await store.readFloats(stored), (await read()).neurons, width));
    }
    const rowBytes = byteLength / (ref.shape[0] ?? 1);
    const bytes = async (): Promise<Uint8Array> => {
      const [all, { neurons }] = [await store.readBytes(stored), await read()];
      return Buffer.concat(Array.from(neurons, (row) => all.subarray(row * rowBytes, (row + 1) * rowBytes)));
    };
    return { name: `${prefix}.${name}`, type: own, shape, bytes };
  };
  const { gate, up } = source.ffn;
  return [
    rows("gate_proj.weight", gate.weight, hiddenSize, [size, hiddenSize]),
    ...(gate.bias ? [rows("gate_proj.bias", gate.bias, 1, [size])] : []),
    rows("up_proj.weight", up.weight, hiddenSize, [size, hiddenSize]),
    ...(up.bias ? [rows("up_proj.bias", up.bias, 1, [size])] : []),
    downTensor(source, { name: `${prefix}.down_proj.weight`, type, shape: [hiddenSize, size] }, read),
    tensor("down_proj.bias", [hiddenSize], async () => (await read()).bias),
  ];
}

/** Rounds a fitted down-projection to blocks where the dense one has blocks, finest for the largest neurons. */
function downTensor(
  { ffn: { down } }: LayerSource,
  tensor: Omit<SafetensorsInput, "bytes"> & { readonly type: StoredFloat },
  read: () => Promise<Part>,
): SafetensorsInput {
  const own = down.weight.store.info(down.weight.name).type;
  const type = isBlockType(own) ? typeOfWidth(own, tensor.shape[1] ?? 1) : tensor.type;
  const bytes = async (): Promise<Uint8Array> => {
    const part = await read();
    if (isStoredFloat(type)) return encodeFloats(part.down, type);
    return roundToBlocks(part.down, type, part.squares && withFloor(part.squares));
  };
  return { ...tensor, type, bytes };
}

function floatTypeOf({ ffn }: LayerSource): StoredFloat {
  const { type } = ffn.gate.weight.store.info(ffn.gate.weight.name);
  return isStoredFloat(type) ? type : "F16";
}

/** Returns one number when all layers have the same size, as in config.json and report.json. */
export function oneOrMany(sizes: readonly number[]): number | readonly number[] {
  const [first = 0] = sizes;
  return sizes.every((size) => size === first) ? first : sizes;
}
