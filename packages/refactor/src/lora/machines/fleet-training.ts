// Gives the shards of a training's steps to the machines of a fleet.

import type { RefactorFleet } from "../../options.ts";
import { encodePlan, machinesOf } from "../../tasks/plan.ts";
import { planKey, SharedStore } from "../../tasks/shared-store.ts";
import type { TextSequence } from "../../tuning/tuning-data.ts";
import type { ResolvedLoraOptions } from "../options.ts";
import type { Course } from "../schedule.ts";
import type { ComputedStep, ComputeStep, WantedStep } from "../step-shards.ts";
import { gradientTaskName, valuesName } from "./gradient-task.ts";
import { readGradients } from "./step-artefacts.ts";

/** Inputs of a training that decide its gradients, beside the model. */
export interface TrainingText {
  readonly options: ResolvedLoraOptions;
  readonly numKinds: number;
  /** Sequences of all kinds, in the order of kinds. */
  readonly training: readonly TextSequence[];
}

/** A training on the machines of a fleet. */
export interface FleetTraining {
  /** Returns what computes the gradients of a course. */
  readonly computeOf: (course: Course) => ComputeStep;
  /** Removes what machines share; called when the experts are written. */
  readonly close: () => Promise<void>;
}

/** Opens a training for the machines that have the same model and arithmetic as this one. */
export async function openFleetTraining(
  fleet: RefactorFleet,
  { options, numKinds, training }: TrainingText,
  {
    fingerprint,
    threads,
    signal,
  }: {
    /** Fingerprint of the model's files. */
    readonly fingerprint: string;
    readonly threads: number | undefined;
    readonly signal: AbortSignal | undefined;
  },
): Promise<FleetTraining> {
  const { artefacts } = fleet;
  const machines = await machinesOf(fingerprint, threads);
  const groups = Array.from({ length: numKinds }, (_, kind) =>
    training.filter(({ domain }) => domain === kind).map(({ tokenIds }) => tokenIds),
  );
  const { id: plan, bytes } = encodePlan({ kind: "low-rank", options, groups }, machines);
  const store = new SharedStore(artefacts, plan);
  await artefacts.put(planKey(plan), bytes);
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
    await fleet.run({ machines, plan, tasks: shards.map(nameOf), isDone, signal });
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
    close: () => artefacts.remove(planKey(plan)),
  };
}
