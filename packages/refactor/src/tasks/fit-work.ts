// Places where the tasks of a fit run and their results are stored: here, or on the machines of a fleet.

import { existsSync } from "node:fs";
import { writeLayer, LocalStore } from "./local-store.ts";
import type { WorkFolder } from "../job/work-folder.ts";
import type { RefactorFleet, RefactorRun } from "../options.ts";
import type { FitPlan, FitSetting } from "./fit-setting.ts";
import { encodePlan, machinesOf } from "./plan.ts";
import { planKey, SharedStore } from "./shared-store.ts";
import { TaskRunner } from "./task-runner.ts";
import { fitsOf, passesOf, taskName, type Task } from "./task.ts";

const CHECKPOINT_MS = 30_000;

export interface FitWork {
  readonly runner: TaskRunner;
  /** Runs tasks side by side or one after the other, and `last` behind them. */
  readonly run: (tasks: readonly Task[], last: Task) => Promise<void>;
  /** Keeps a finished layer in the work folder. */
  readonly keepLayer: (layer: number) => Promise<void>;
  /** Saves what a later process resumes from. @param isLast - whether no layer follows */
  readonly checkpoint: (isLast: boolean) => Promise<void>;
  /** Removes all results; called when the model is written. */
  readonly removeResults: () => Promise<void>;
}

/** Inputs of a place of work. */
export interface FitPlace {
  readonly setting: FitSetting;
  readonly plan: FitPlan;
  readonly work: WorkFolder;
  readonly run: RefactorRun;
  /** Fingerprint of the model's files. */
  readonly fingerprint: string;
}

/** Opens the work of this machine, or that of a fleet. */
export function openFitWork(place: FitPlace): Promise<FitWork> {
  const { fleet } = place.run;
  return fleet ? fleetWork(place, fleet) : localWork(place);
}

async function localWork({ setting, work, run }: FitPlace): Promise<FitWork> {
  const store = await LocalStore.open(work);
  const runner = new TaskRunner(setting, store);
  let savedMs = performance.now();
  return {
    runner,
    run: async (tasks, last) => {
      for (const task of [...tasks, last]) await runner.run(task);
    },
    // The store keeps layers there.
    keepLayer: () => Promise.resolve(),
    checkpoint: async (isLast) => {
      const isDue = performance.now() - savedMs >= (run.checkpointMs ?? CHECKPOINT_MS);
      if (!isDue && !isLast) return;
      await store.saveCheckpoint();
      savedMs = performance.now();
    },
    // They go with the work folder.
    removeResults: () => Promise.resolve(),
  };
}

async function fleetWork(place: FitPlace, fleet: RefactorFleet): Promise<FitWork> {
  const { setting, work, run, fingerprint } = place;
  const machines = await machinesOf(fingerprint, run.threads);
  const { id: plan, bytes } = encodePlan({ kind: "fit", ...place.plan }, machines);
  const store = new SharedStore(fleet.artefacts, plan);
  const runner = new TaskRunner(setting, store);
  // Written again in each run, since an earlier one may be damaged.
  await fleet.artefacts.put(planKey(plan), bytes);
  return {
    runner,
    run: async (tasks, last) => {
      if (await runner.isDone(last)) return;
      const open: string[] = [];
      for (const task of tasks) if (!(await runner.isDone(task))) open.push(taskName(task));
      const isDone = (): Promise<boolean> => runner.isDone(last);
      await fleet.run({ machines, plan, tasks: open, last: taskName(last), isDone, signal: run.signal });
    },
    keepLayer: async (layer) => {
      if (!existsSync(work.layerFile(layer)))
        await writeLayer(work, layer, await runner.read({ kind: "layer", layer }));
    },
    checkpoint: () => Promise.resolve(),
    removeResults: async () => {
      for (const task of tasksOf(setting)) await runner.remove(task);
      await fleet.artefacts.remove(planKey(plan));
    },
  };
}

/** Lists all tasks of a fit. */
function tasksOf({ bounds }: FitSetting): readonly Task[] {
  const layers = Array.from({ length: bounds.numLayers }, (_, layer): readonly Task[] => [
    ...passesOf(layer, bounds),
    { kind: "pool", layer },
    ...fitsOf(layer, bounds),
    { kind: "layer", layer },
  ]);
  return [...layers.flat(), ...passesOf(bounds.numLayers, bounds), { kind: "costs" }];
}
