// Trains a pre-gating router from texts and the costs of each expert for their tokens.

import { existsSync } from "node:fs";
import { setImmediate as nextTurn } from "node:timers/promises";
import type { RouterConfig, SafetensorsInput } from "@readme-moe/model";
import { learningRateShare } from "../autodiff/adam.ts";
import { restoreArrays, withFile, writeArrays } from "../job/work-folder.ts";
import {
  RouterBatches,
  DEFAULT_ARCHITECTURE,
  EMBEDDING,
  PAPER_ARCHITECTURE,
  routerTensors,
  type RouterArchitecture,
  type RouterParameters,
  RouterTrainer,
} from "./router-trainer.ts";
import { addEvidence, projectEmbedding, startParameters, type SourceEmbedding } from "./router-start.ts";
import { routerTargets, type RouterExample, evaluateRoutes, type RouteFigures } from "./routes.ts";

export interface RouterTrainingOptions {
  readonly numExperts: number;
  readonly vocabSize: number;
  /** Context of the router's config; training itself reads crops of `cropTokens`. */
  readonly contextTokens: number;
  /** Embedding of the language model, to start from. */
  readonly embedding: SourceEmbedding;
  /** Trains the paper's router: its architecture, on costs that are negated targets. @default false */
  readonly isPaper?: boolean;
  /** @default the paper's, or a smaller one */
  readonly architecture?: RouterArchitecture;
  /** See `TargetOptions`. */
  readonly localityTokens: number;
  readonly steps: number;
  /** Crops of a step. @default 16 */
  readonly batchCrops?: number;
  /** @default 256 */
  readonly cropTokens?: number;
  /** @default 0.003 */
  readonly learningRate?: number;
  /** Weight decay of matrices and the embedding. @default 0.05 */
  readonly weightDecay?: number;
  /** Share of the tokens that are replaced, against memorizing documents. @default 0.1 */
  readonly replacedShare?: number;
  /** Examples of other documents. The result has the parameters that cost them least. */
  readonly validation: readonly RouterExample[];
  /** @default a tenth of `steps` */
  readonly validateEverySteps?: number;
  readonly seed: number;
  /** @default all cores */
  readonly threads: number | undefined;
  readonly onProgress?: (progress: { readonly step: number; readonly steps: number }) => void;
  readonly signal: AbortSignal | undefined;
  /** File of the checkpoint. A training resumes from it, with the same result to the last bit. */
  readonly checkpointPath?: string;
  /** @default a tenth of `steps` */
  readonly checkpointEverySteps?: number;
}

export interface TrainedRouter {
  readonly config: RouterConfig;
  /** Tensors of a Read-ME folder's router file. */
  readonly tensors: readonly SafetensorsInput[];
  readonly history: RouterTrainingHistory;
  /** Figures of the result on the validation examples; `undefined` without any. */
  readonly validation: RouteFigures | undefined;
}

interface RouterTrainingHistory {
  /** Mean cross-entropy per token of each step, in nats. */
  readonly losses: readonly number[];
  readonly validations: readonly { readonly step: number; readonly figures: RouteFigures }[];
  /** Step of the result's parameters; `undefined` without validation. */
  readonly bestStep: number | undefined;
}

const TEMPERATURE = 0.25;
const WARM_UP_SHARE = 0.05;
const LAST_RATE_SHARE = 0.02;

/**
 * Trains a router. The same examples and options give the same router, to the last bit, on the same machine.
 *
 * @throws {RangeError} when costs do not fit their tokens or are not finite, or the checkpoint is of another router
 * @throws the reason of `signal` between two steps, once it is aborted
 */
export async function trainRouter(
  examples: readonly RouterExample[],
  options: RouterTrainingOptions,
): Promise<TrainedRouter> {
  const { isPaper = false, numExperts, vocabSize, contextTokens, localityTokens, seed, threads } = options;
  const { batchCrops = 16, cropTokens = 256, replacedShare = 0.1, validation } = options;
  const { architecture = isPaper ? PAPER_ARCHITECTURE : DEFAULT_ARCHITECTURE } = options;
  checkCosts([...examples, ...validation], numExperts);
  const config = { vocabSize, numExperts, contextTokens, ...architecture };
  const temperature = TEMPERATURE;
  const targets = routerTargets(examples, { numExperts, isGiven: isPaper, temperature, localityTokens });
  const shape = { sequences: batchCrops, tokens: cropTokens };
  const batches = new RouterBatches(examples, targets, { shape, numExperts, replacedShare, seed });
  const table = await projectEmbedding(options.embedding, config, seed, threads);
  // Evidence takes one dimension for each expert and leaves at least as many to the language model's embedding.
  if (!isPaper && 2 * numExperts <= config.embeddingSize) addEvidence(table, examples, targets, config);
  const parameters = new Map([[EMBEDDING, table], ...startParameters(config, seed)]);
  const trainer = new RouterTrainer(config, parameters, shape, threads);
  try {
    // Batches are divided by the mean weight of all tokens, so that batches with few tokens make short steps.
    const batchWeight = meanWeight(targets, numExperts) * batchCrops * cropTokens;
    const { best = trainer.parameters, history } = await runSteps(trainer, batches, batchWeight, options);
    const figures = history.validations.find(({ step }) => step === history.bestStep)?.figures;
    return { config, tensors: routerTensors(config, best), history, validation: figures };
  } finally {
    await trainer.dispose();
  }
}

async function runSteps(
  trainer: RouterTrainer,
  batches: RouterBatches,
  batchWeight: number,
  options: RouterTrainingOptions,
): Promise<{ readonly best: RouterParameters | undefined; readonly history: RouterTrainingHistory }> {
  const { steps, validation, learningRate = 3e-3, weightDecay = 0.05, signal, onProgress, checkpointPath } = options;
  const tenth = Math.ceil(steps / 10);
  const { validateEverySteps = tenth, checkpointEverySteps = tenth } = options;
  const losses: number[] = [];
  const validations: RouterTrainingHistory["validations"][number][] = [];
  // A copy of the parameters with the lowest cost on the validation examples, and its step.
  let best: RouterParameters | undefined;
  let bestStep: number | undefined;
  const copied = (): RouterParameters => new Map(Array.from(trainer.parameters, ([name, of]) => [name, of.slice()]));
  if (checkpointPath !== undefined && existsSync(checkpointPath)) {
    const known = await withFile(checkpointPath, async (file) => {
      await restoreArrays(file, trainer.state);
      const history: RouterTrainingHistory = JSON.parse(file.metadata.get("history") ?? "{}");
      const kept = history.bestStep === undefined ? undefined : copied();
      await restoreArrays(file, bestArrays(kept));
      return { ...history, kept };
    });
    losses.push(...known.losses);
    validations.push(...known.validations);
    [best, bestStep] = [known.kept, known.bestStep];
  }
  for (let step = losses.length; step < steps; step++) {
    signal?.throwIfAborted();
    const share = learningRateShare(step, steps, Math.ceil(steps * WARM_UP_SHARE), LAST_RATE_SHARE);
    const batch = batches.batch(step);
    const weight = divide(batch.targets, batchWeight);
    losses.push((await trainer.learn(batch, step + 1, { learningRate: learningRate * share, weightDecay })) / weight);
    const isDue = (step + 1) % validateEverySteps === 0 || step + 1 === steps;
    if (isDue && validation.length > 0) {
      const figures = await validate(trainer, options);
      if (validations.every((other) => figures.cost < other.figures.cost)) [best, bestStep] = [copied(), step + 1];
      validations.push({ step: step + 1, figures });
    }
    onProgress?.({ step: step + 1, steps });
    if (checkpointPath !== undefined && (step + 1) % checkpointEverySteps === 0) {
      const history = JSON.stringify({ losses, validations, bestStep });
      await writeArrays(checkpointPath, [...trainer.state, ...bestArrays(best)], { history });
    }
    // The runtime blocks this thread: signals and timers need a turn of the event loop.
    await nextTurn();
  }
  return { best, history: { losses, validations, bestStep } };
}

/** Names the best parameters in a checkpoint. */
function bestArrays(best: RouterParameters | undefined): readonly (readonly [string, Float32Array])[] {
  return Array.from(best ?? [], ([name, values]) => [`best:${name}`, values]);
}

async function validate(
  trainer: RouterTrainer,
  { validation, numExperts }: RouterTrainingOptions,
): Promise<RouteFigures> {
  const routed = [];
  for (const { tokenIds, costs } of validation) routed.push({ experts: await trainer.route(tokenIds), costs });
  return evaluateRoutes(routed, numExperts);
}

function checkCosts(examples: readonly RouterExample[], numExperts: number): void {
  for (const { tokenIds, costs } of examples) {
    if (costs.length !== tokenIds.length * numExperts) {
      const expected = `${tokenIds.length} x ${numExperts} values`;
      throw new RangeError(`Expected costs of an example to have ${expected}, got ${costs.length}`);
    }
    const wrong = costs.find((cost) => !Number.isFinite(cost));
    if (wrong !== undefined) throw new RangeError(`Expected costs of an example to be finite, got ${wrong}`);
  }
}

function meanWeight(targets: readonly Float32Array[], numExperts: number): number {
  let [sum, tokens] = [0, 0];
  for (const rows of targets) {
    for (const share of rows) sum += share;
    tokens += rows.length / numExperts;
  }
  return sum / tokens;
}

/** Divides `targets` in place. @returns their sum afterwards */
function divide(targets: Float32Array, divisor: number): number {
  let sum = 0;
  targets.forEach((share, i) => {
    targets[i] = share / divisor;
    sum += targets[i];
  });
  return sum;
}
