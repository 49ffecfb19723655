// A router out of texts and of what each expert gets wrong of them.

import { setImmediate as nextTurn } from "node:timers/promises";
import type { RouterConfig, SafetensorsInput } from "@readme-moe/model";
import { learningRateShare } from "../autodiff/schedule.ts";
import { evaluateRoutes, type RouteFigures } from "./route-figures.ts";
import { RouterBatches } from "./router-batches.ts";
import type { RouterCheckpoint, RouterTrainingHistory } from "./router-checkpoint.ts";
import { checkExamples, type RouterExample } from "./router-example.ts";
import { planRouterTraining, type RouterTrainingOptions, type RouterTrainingPlan } from "./router-options.ts";
import { startParameters } from "./router-start.ts";
import { routerTargets } from "./router-targets.ts";
import { routerTensors } from "./router-tensors.ts";
import { EMBEDDING, RouterTrainer } from "./router-trainer.ts";
import { addEvidence, projectEmbedding } from "./start-embedding.ts";

export interface TrainedRouter {
  readonly config: RouterConfig;
  /** As `ReadMeTensors.router` takes them. */
  readonly tensors: readonly SafetensorsInput[];
  readonly history: RouterTrainingHistory;
  /** Of the result on the validation examples; `undefined` without any. */
  readonly validation: RouteFigures | undefined;
}

const WARM_UP_SHARE = 0.05;
const LAST_RATE_SHARE = 0.02;

/**
 * Trains a pre-gating router: examples in, tensors out. The same examples and options give the same router, to the bit,
 * on the same machine.
 *
 * @throws {TypeError | RangeError} when options or examples do not fit
 * @throws the reason of `signal`, once it is aborted, between two steps
 */
export async function trainRouter(
  examples: readonly RouterExample[],
  options: RouterTrainingOptions,
): Promise<TrainedRouter> {
  const plan = planRouterTraining(options);
  checkExamples("examples", examples, plan);
  if (plan.validation.length > 0) checkExamples("validation", plan.validation, plan);
  const targets = routerTargets(examples, plan.numExperts, plan);
  const shape = { sequences: plan.batchCrops, tokens: plan.cropTokens };
  const batches = new RouterBatches(examples, targets, { ...plan, shape });
  const parameters = await start(examples, targets, plan);
  const trainer = await RouterTrainer.open(plan.config, parameters, shape, plan.threads);
  try {
    const { history, best } = await run(trainer, batches, meanWeight(targets, plan.numExperts), plan, options);
    const { config } = plan;
    const validation = history.validations.find(({ step }) => step === history.bestStep)?.figures;
    return { config, tensors: routerTensors(config, best ?? trainer.parameters), history, validation };
  } finally {
    await trainer.dispose();
  }
}

async function start(
  examples: readonly RouterExample[],
  targets: readonly Float32Array[],
  { config, embedding, seed, threads, startsFromEvidence }: RouterTrainingPlan,
): Promise<ReadonlyMap<string, Float32Array>> {
  const table = await projectEmbedding(embedding, config, seed, threads);
  if (startsFromEvidence) addEvidence(table, examples, targets, config);
  return new Map([[EMBEDDING, table], ...startParameters(config, seed)]);
}

interface Outcome {
  readonly history: RouterTrainingHistory;
  /** The parameters of `history.bestStep`. */
  readonly best: ReadonlyMap<string, Float32Array> | undefined;
}

async function run(
  trainer: RouterTrainer,
  batches: RouterBatches,
  tokenWeight: number,
  plan: RouterTrainingPlan,
  { signal, onProgress, onCheckpoint, resumeFrom }: RouterTrainingOptions,
): Promise<Outcome> {
  const { steps, validateEverySteps, checkpointEverySteps, validation } = plan;
  const keeper = new BestKeeper(trainer.parameters);
  const losses: number[] = [];
  if (resumeFrom) restore(resumeFrom, trainer, keeper, losses);
  for (let step = resumeFrom?.step ?? 0; step < steps; step++) {
    signal?.throwIfAborted();
    const share = learningRateShare(step, steps, Math.ceil(steps * WARM_UP_SHARE), LAST_RATE_SHARE);
    const batch = batches.batch(step);
    const weight = scale(batch.targets, tokenWeight * plan.batchCrops * plan.cropTokens);
    const rates = { learningRate: plan.learningRate * share, weightDecay: plan.weightDecay };
    const loss = (await trainer.learn(batch, step + 1, rates)) / weight;
    losses.push(loss);
    const isLast = step + 1 === steps;
    const isDue = validation.length > 0 && ((step + 1) % validateEverySteps === 0 || isLast);
    const figures = isDue ? await validate(trainer, plan) : undefined;
    if (figures) keeper.offer(step + 1, figures);
    onProgress?.({ step: step + 1, steps, loss, validation: figures });
    if (onCheckpoint && (step + 1) % checkpointEverySteps === 0) {
      const tensors = Object.fromEntries([...trainer.state, ...keeper.state]);
      await onCheckpoint({ step: step + 1, history: { losses: [...losses], ...keeper.history }, tensors });
    }
    // The runtime blocks this thread: whoever wants to abort has to get a turn.
    await nextTurn();
  }
  return { history: { losses, ...keeper.history }, best: keeper.best };
}

async function validate(trainer: RouterTrainer, plan: RouterTrainingPlan): Promise<RouteFigures> {
  const routed = [];
  for (const { tokenIds, costs } of plan.validation) routed.push({ experts: await trainer.route(tokenIds), costs });
  return evaluateRoutes(routed, plan.numExperts);
}

function restore(checkpoint: RouterCheckpoint, trainer: RouterTrainer, keeper: BestKeeper, losses: number[]): void {
  keeper.restore(checkpoint);
  losses.push(...checkpoint.history.losses);
  for (const [name, values] of trainer.state) fill(values, checkpoint, name);
}

/** Remembers the parameters that did best on the validation examples. */
class BestKeeper {
  readonly #parameters: ReadonlyMap<string, Float32Array>;
  readonly #validations: { step: number; figures: RouteFigures }[] = [];
  #bestStep: number | undefined;
  best: ReadonlyMap<string, Float32Array> | undefined;

  constructor(parameters: ReadonlyMap<string, Float32Array>) {
    this.#parameters = parameters;
  }

  get history(): Omit<RouterTrainingHistory, "losses"> {
    return { validations: [...this.#validations], bestStep: this.#bestStep };
  }

  get state(): readonly (readonly [string, Float32Array])[] {
    return [...(this.best ?? [])].map(([name, values]) => [`best:${name}`, values]);
  }

  offer(step: number, figures: RouteFigures): void {
    const least = Math.min(...this.#validations.map((other) => other.figures.cost));
    this.#validations.push({ step, figures });
    if (figures.cost >= least) return;
    this.#bestStep = step;
    this.best = new Map([...this.#parameters].map(([name, values]) => [name, values.slice()]));
  }

  restore(checkpoint: RouterCheckpoint): void {
    this.#validations.push(...checkpoint.history.validations);
    this.#bestStep = checkpoint.history.bestStep;
    if (this.#bestStep === undefined) return;
    this.best = new Map([...this.#parameters].map(([name, values]) => [name, values.slice()]));
    for (const [name, values] of this.best) fill(values, checkpoint, `best:${name}`);
  }
}

function fill(values: Float32Array, { tensors }: RouterCheckpoint, name: string): void {
  const saved = tensors[name];
  if (saved?.length !== values.length) {
    const found = saved ? `${saved.length}` : "none";
    throw new RangeError(`Expected \`resumeFrom\` to hold ${values.length} values of ${name}, got ${found}`);
  }
  values.set(saved);
}

/** Of a token: batches are divided by this, not by their own, so that light batches make short steps. */
function meanWeight(targets: readonly Float32Array[], numExperts: number): number {
  let [sum, tokens] = [0, 0];
  for (const rows of targets) {
    for (let i = 0; i < rows.length; i++) sum += rows[i] as number;
    tokens += rows.length / numExperts;
  }
  return sum / tokens;
}

/** Divides `targets` by `divisor`. @returns their sum after that */
function scale(targets: Float32Array, divisor: number): number {
  let sum = 0;
  for (let i = 0; i < targets.length; i++) {
    targets[i] = (targets[i] as number) / divisor;
    sum += targets[i] as number;
  }
  return sum;
}
