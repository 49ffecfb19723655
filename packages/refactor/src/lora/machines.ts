// Steps of a training on several machines: each computes the gradients of some shards.

import type { Model } from "@readme-moe/model";
import type { PassOptions } from "../layers/run-layer.ts";
import type { RefactorFleet } from "../options.ts";
import { openPlan, type PlanTasks, type WorkPlan } from "../tasks/fit-work.ts";
import { arrayOf, type Artefact } from "../tasks/results.ts";
import type { TaskStore } from "../tasks/task-runner.ts";
import type { TextSequence } from "../tuning/tuning-data.ts";
import {
  type Course,
  type ComputedStep,
  type ComputeStep,
  type WantedStep,
  AdapterTrainer,
  coursesOf,
  planOf,
  scheduleOf,
  cutShards,
  changesOf,
  openTrainingModel,
  type ShardGradients,
} from "./adapter-trainer.ts";
import { type ResolvedLoraOptions, resolveLoraOptions } from "./options.ts";

/** Inputs of a training that decide its gradients, beside the model. */
interface TrainingText {
  readonly options: ResolvedLoraOptions;
  readonly numKinds: number;
  /** Sequences of all kinds, in the order of kinds. */
  readonly training: readonly TextSequence[];
}

interface FleetTraining {
  /** Returns what computes the gradients of a course. */
  readonly computeOf: (course: Course) => ComputeStep;
  /** Removes what machines share; called when the experts are written. */
  readonly close: () => Promise<void>;
}

/** Opens a training for the machines that have the same model and arithmetic as this one. */
export async function openFleetTraining(
  fleet: RefactorFleet,
  { options, numKinds, training }: TrainingText,
  run: Parameters<typeof openPlan>[2] & { readonly signal: AbortSignal | undefined },
): Promise<FleetTraining> {
  const groups = Array.from({ length: numKinds }, (_, kind) =>
    training.filter(({ domain }) => domain === kind).map(({ tokenIds }) => tokenIds),
  );
  const { plan, machines, store, removePlan } = await openPlan(fleet, { kind: "low-rank", options, groups }, run);
  const shards = [...Array(options.shards).keys()];

  const removeStep = async (course: Course, step: number): Promise<void> => {
    // The parameters go first: a machine that finds none stores nothing.
    await store.remove(valuesName(course, step));
    for (const shard of shards) await store.remove(gradientTaskName({ course, step, shard }));
  };
  const runStep = async (course: Course, { step, values, here }: WantedStep): Promise<ComputedStep> => {
    const nameOf = (shard: number): string => gradientTaskName({ course, step, shard });
    const given = values();
    const isDone = async (): Promise<boolean> => {
      for (const shard of shards) {
        if (await store.has(nameOf(shard))) continue;
        // Written again whenever tasks are given out, since it may be damaged.
        await store.write(valuesName(course, step), given);
        return false;
      }
      return true;
    };
    await fleet.run({ machines, plan, tasks: shards.map(nameOf), isDone, signal: run.signal });
    return {
      read: async (shard) => {
        const result = await store.read(nameOf(shard));
        return result ? readGradients(result) : here(shard);
      },
      end: () => removeStep(course, step),
    };
  };
  return {
    computeOf: (course) => (wanted) => runStep(course, wanted),
    close: removePlan,
  };
}

// Computes gradients for a training that another machine coordinates.

interface TaskMachine {
  readonly model: Model;
  readonly store: TaskStore;
  readonly run: PassOptions;
}

/**
 * Reads the model for the tasks of a plan.
 *
 * @throws {TypeError | RangeError} on options that no training has
 */
export async function openLoraTasks(plan: WorkPlan, { model, store, run }: TaskMachine): Promise<PlanTasks> {
  const options = resolveLoraOptions(plan.options, plan.groups.length);
  const { shards } = options;
  const schedule = scheduleOf(options, plan.groups.length);
  const sequences = plan.groups.flatMap((group, domain) => group.map((tokenIds) => ({ tokenIds, domain })));
  const training = await openTrainingModel(model, options, run.threads);
  const courses = coursesOf(options, schedule);
  const stepsOf = (course: Course): number => planOf(course, schedule, options).steps;
  // Training of the last task.
  let open: { readonly name: string; readonly trainer: AdapterTrainer } | undefined;
  const trainerOf = (course: Course): AdapterTrainer => {
    const name = phaseName(course);
    if (open?.name === name) return open.trainer;
    const changes = changesOf(course, training, { ...options, numKinds: schedule.numKinds });
    const trainer = new AdapterTrainer(training.adapted, changes, { signal: run.signal });
    open = { name, trainer };
    return trainer;
  };
  return {
    // Does nothing if the gradients are there, or if their step is over.
    run: async (name) => {
      const task = parseGradientTask(name, { courses, shards, stepsOf });
      const result = gradientTaskName(task);
      if (await store.has(result)) return;
      const valuesKey = valuesName(task.course, task.step);
      const values = await store.read(valuesKey);
      if (!values) return;
      const trainer = trainerOf(task.course);
      trainer.setValues(readValues(values));
      const own = planOf(task.course, schedule, options).batch(sequences, task.step);
      const gradients = await trainer.shardGradients(cutShards(own, shards)[task.shard] ?? [], own.length);
      // Another machine may have done the task of one that was thought dead. Nobody removes results behind a step.
      if (await store.has(valuesKey)) await store.write(result, gradientsArtefact(gradients));
    },
    dispose: training.dispose,
  };
}

// Names of what machines share in a training: a step's parameters, and a task for the gradients of each of its shards.

interface GradientTask {
  readonly course: Course;
  /** Number of the step, from 0. */
  readonly step: number;
  readonly shard: number;
}

/** Names the course of a training: letters and digits. */
function phaseName(course: Course): string {
  if (typeof course === "string") return course;
  return `${course.isRest ? "rest" : "whole"}${course.kind}`;
}

/** Names a step's parameters. */
function valuesName(course: Course, step: number): string {
  return `values-${phaseName(course)}-${step}`;
}

/** Names a task: letters, digits and hyphens. */
export function gradientTaskName({ course, step, shard }: GradientTask): string {
  return `gradients-${phaseName(course)}-${step}-${shard}`;
}

/** Numbers that limit those of tasks. */
interface GradientBounds {
  readonly courses: readonly Course[];
  readonly stepsOf: (course: Course) => number;
  readonly shards: number;
}

/** Finds the task with a name. @throws {RangeError} when there is none in the plan */
export function parseGradientTask(name: string, { courses, stepsOf, shards }: GradientBounds): GradientTask {
  const [, wanted, step, shard] = name.split("-");
  const course = courses.find((one) => phaseName(one) === wanted);
  const task = course !== undefined && { course, step: Number(step), shard: Number(shard) };
  // The name is written again, so that no other spelling of a number is accepted.
  const isKnown = task && gradientTaskName(task) === name;
  if (isKnown && isBelow(task.step, stepsOf(task.course)) && isBelow(task.shard, shards)) return task;
  throw new RangeError("Expected the name of a task of the plan, got another");
}

function isBelow(value: number, end: number): boolean {
  return Number.isInteger(value) && value >= 0 && value < end;
}

// Parameters and gradients of a step, as artefacts and back.

/** Name of the loss among a shard's gradients; no parameter has it. */
const CROSS_ENTROPY = "crossEntropy";

function gradientsArtefact({ crossEntropy, gradients }: ShardGradients): Artefact {
  return new Map<string, Float32Array | Float64Array>([[CROSS_ENTROPY, Float64Array.of(crossEntropy)], ...gradients]);
}

function readGradients(artefact: Artefact): ShardGradients {
  const [crossEntropy = NaN] = arrayOf(artefact, CROSS_ENTROPY, "F64");
  const names = [...artefact.keys()].filter((name) => name !== CROSS_ENTROPY);
  return { crossEntropy, gradients: readValues(artefact, names) };
}

/** Reads arrays by name. @throws {TypeError} when one is not float32 */
function readValues(artefact: Artefact, names: Iterable<string> = artefact.keys()): ReadonlyMap<string, Float32Array> {
  return new Map(Array.from(names, (name) => [name, arrayOf(artefact, name, "F32")]));
}
