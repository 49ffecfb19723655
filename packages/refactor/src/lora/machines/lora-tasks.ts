// Computes gradients for a training that another machine coordinates.

import type { Model } from "@readme-moe/model";
import type { PassOptions } from "../../layers/run-layer.ts";
import type { WorkPlan } from "../../tasks/plan.ts";
import type { TaskStore } from "../../tasks/task-runner.ts";
import type { TextSequence } from "../../tuning/tuning-data.ts";
import { AdapterTrainer } from "../adapter-trainer.ts";
import { resolveLoraOptions, type ResolvedLoraOptions } from "../options.ts";
import { coursesOf, planOf, scheduleOf, type Course, type Schedule } from "../schedule.ts";
import { cutShards } from "../step-shards.ts";
import { changesOf, openTrainingModel, type TrainingModel } from "../training-model.ts";
import { courseName, gradientTaskName, parseGradientTask, valuesName } from "./gradient-task.ts";
import { gradientsArtefact, readValues } from "./step-artefacts.ts";

interface TaskMachine {
  readonly model: Model;
  readonly store: TaskStore;
  readonly run: PassOptions;
}

/** Tasks of one training. */
export class LoraTasks {
  readonly #machine: TaskMachine;
  readonly #training: TrainingModel;
  readonly #options: ResolvedLoraOptions;
  readonly #schedule: Schedule;
  readonly #sequences: readonly TextSequence[];
  /** Training of the last task. */
  #open: { readonly name: string; readonly trainer: AdapterTrainer } | undefined;

  private constructor(machine: TaskMachine, plan: WorkPlan, options: ResolvedLoraOptions, training: TrainingModel) {
    this.#machine = machine;
    this.#training = training;
    this.#options = options;
    this.#schedule = scheduleOf(options, plan.groups.length);
    this.#sequences = plan.groups.flatMap((group, domain) => group.map((tokenIds) => ({ tokenIds, domain })));
  }

  /**
   * Reads the model for the tasks of a plan.
   *
   * @throws {TypeError | RangeError} on options that no training has
   */
  static async open(plan: WorkPlan, machine: TaskMachine): Promise<LoraTasks> {
    const options = resolveLoraOptions(plan.options, plan.groups.length);
    return new LoraTasks(machine, plan, options, await openTrainingModel(machine.model, options, machine.run.threads));
  }

  /** Computes the gradients of a shard and stores them; does nothing if they are there, or if their step is over. */
  async run(name: string): Promise<void> {
    const { store } = this.#machine;
    const shards = this.#options.shards;
    const courses = coursesOf(this.#options, this.#schedule);
    const task = parseGradientTask(name, { courses, shards, stepsOf: (course) => this.#planOf(course).steps });
    const result = gradientTaskName(task);
    if (await store.has(result)) return;
    const valuesKey = valuesName(task.course, task.step);
    const values = await store.read(valuesKey);
    if (!values) return;
    const trainer = this.#trainerOf(task.course);
    trainer.setValues(readValues(values));
    const sequences = this.#planOf(task.course).batch(this.#sequences, task.step);
    const gradients = await trainer.shardGradients(cutShards(sequences, shards)[task.shard] ?? [], sequences.length);
    // Another machine may have done the task of one that was thought dead, and nobody removes a result behind its step.
    if (await store.has(valuesKey)) await store.write(result, gradientsArtefact(gradients));
  }

  dispose = (): Promise<void> => this.#training.adapted.dispose();

  #planOf(course: Course) {
    return planOf(course, this.#schedule, this.#options);
  }

  #trainerOf(course: Course): AdapterTrainer {
    const name = courseName(course);
    if (this.#open?.name === name) return this.#open.trainer;
    const changes = changesOf(course, this.#training, { ...this.#options, numKinds: this.#schedule.numKinds });
    const trainer = new AdapterTrainer(this.#training.adapted, changes, { signal: this.#machine.run.signal });
    this.#open = { name, trainer };
    return trainer;
  }
}
