// Places where the tasks of a fit run and their results are stored: here, or on the machines of a fleet.

import { createHash } from "node:crypto";
import { seededRandom } from "@readme-moe/core";
import { kernelInfo, kernelThreads, kernelVersion } from "@readme-moe/kernel";
import type { ModelConfig } from "@readme-moe/model";
import { GraphBuilder } from "../graphs/graph-builder.ts";
import * as operators from "../graphs/operators.ts";
import { GraphSession, type GraphTensor } from "../graphs/session.ts";
import type { WorkFolder } from "../job/work-folder.ts";
import { STEADY_COLUMNS } from "../linear-algebra/deterministic-gemm.ts";
import type { RefactorFleet, RefactorRun } from "../options.ts";
import type { FitPlan, FitSetting } from "./fit-tasks.ts";
import { arrayOf, decodeArtefact, encodeArtefact } from "./results.ts";
import { openLocalStore, planKey, sharedStore, TaskRunner, type TaskStore } from "./task-runner.ts";
import { taskName, tasksOf, type Task } from "./task.ts";

const CHECKPOINT_MS = 30_000;

export interface FitWork {
  readonly runner: TaskRunner;
  /** Runs tasks side by side or one after the other, and `last` behind them. */
  readonly run: (tasks: readonly Task[], last: Task) => Promise<void>;
  /** Saves what a later process resumes from, where results are in memory. @param isLast - whether no layer follows */
  readonly checkpoint?: (isLast: boolean) => Promise<void>;
  /** Removes results that do not go with the work folder; called when the model is written. */
  readonly removeResults?: () => Promise<void>;
}

interface FitPlace {
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
  const store = await openLocalStore(work);
  const runner = new TaskRunner(setting, store);
  let savedMs = performance.now();
  return {
    runner,
    run: async (tasks, last) => {
      for (const task of [...tasks, last]) await runner.run(task);
    },
    checkpoint: async (isLast) => {
      const isDue = performance.now() - savedMs >= (run.checkpointMs ?? CHECKPOINT_MS);
      if (!isDue && !isLast) return;
      await store.saveCheckpoint();
      savedMs = performance.now();
    },
  };
}

async function fleetWork(place: FitPlace, fleet: RefactorFleet): Promise<FitWork> {
  const { setting, run, fingerprint } = place;
  const { plan, machines, store, removePlan } = await openPlan(
    fleet,
    { kind: "fit", ...place.plan },
    {
      fingerprint,
      threads: run.threads,
    },
  );
  const runner = new TaskRunner(setting, store);
  return {
    runner,
    run: async (tasks, last) => {
      if (await runner.isDone(last)) return;
      const open: string[] = [];
      for (const task of tasks) if (!(await runner.isDone(task))) open.push(taskName(task));
      const isDone = (): Promise<boolean> => runner.isDone(last);
      await fleet.run({ machines, plan, tasks: open, last: taskName(last), isDone, signal: run.signal });
    },
    removeResults: async () => {
      for (const task of tasksOf(setting.bounds)) await runner.remove(task);
      await removePlan();
    },
  };
}

// The plan of work that machines share as bytes, and which machines give it the same result.

/** Version of tasks and their results; a change of either raises it, so that results of other code are not used. */
const TASK_VERSION = 5;

/** Inputs of work that decide its result, beside the model. */
export interface WorkPlan {
  /** A fit of experts, or a training of experts of low rank. */
  readonly kind: "fit" | "low-rank";
  /** Options of this kind of work, as plain data. */
  readonly options: object;
  /** Sequences of each kind of text or expert, all of equal length. */
  readonly groups: readonly (readonly Int32Array[])[];
}

/** Tasks of a plan. */
export interface PlanTasks {
  /** Runs a task and stores its result. @throws {RangeError} when there is none with this name */
  readonly run: (task: string) => Promise<void>;
  readonly dispose: () => Promise<void>;
}

const ABOUT = "about";
const SHAPE = "shape";
const TOKENS = "tokens";

/** A plan in the store that machines share. */
interface OpenPlan {
  /** Hash of the plan. */
  readonly plan: string;
  /** Machines that give its tasks the same results as this one. */
  readonly machines: string;
  readonly store: TaskStore;
  readonly removePlan: () => Promise<void>;
}

/** Writes a plan for the machines that have the same model and arithmetic as this one. */
export async function openPlan(
  { artefacts }: RefactorFleet,
  work: WorkPlan,
  { fingerprint, threads }: { readonly fingerprint: string; readonly threads: number | undefined },
): Promise<OpenPlan> {
  const machines = await machinesOf(fingerprint, threads);
  const { id: plan, bytes } = encodePlan(work, machines);
  // Written again in each run, since an earlier one may be damaged.
  await artefacts.put(planKey(plan), bytes);
  return {
    plan,
    machines,
    store: sharedStore(artefacts, plan),
    removePlan: () => artefacts.remove(planKey(plan)),
  };
}

/** Encodes a plan. @returns its bytes and their hash, which is its id */
export function encodePlan(
  { kind, options, groups }: WorkPlan,
  machines: string,
): { readonly id: string; readonly bytes: Uint8Array } {
  const [length = 0] = groups.flatMap((group) => group.slice(0, 1).map((sequence) => sequence.length));
  const bytes = encodeArtefact(
    new Map<string, Int32Array | Uint8Array>([
      [ABOUT, new TextEncoder().encode(JSON.stringify({ kind, machines, options }))],
      [SHAPE, Int32Array.of(length, ...groups.map((group) => group.length))],
      [TOKENS, Int32Array.from(groups.flat().flatMap((sequence) => Array.from(sequence)))],
    ]),
  );
  return { id: hashOf(bytes), bytes };
}

/**
 * Decodes a plan, whose kind and options are not checked yet.
 *
 * @param id - its hash
 * @param machines - those that this one is among
 * @throws {TypeError | RangeError} when the bytes are others, or the plan is for other machines or another model
 */
export function decodePlan(
  bytes: Uint8Array,
  { id, machines, config }: { readonly id: string; readonly machines: string; readonly config: ModelConfig },
): WorkPlan {
  const artefact = hashOf(bytes) === id ? decodeArtefact(bytes) : undefined;
  if (!artefact) throw new TypeError("Expected a plan with the hash that its task names, got another");
  const about = JSON.parse(new TextDecoder().decode(arrayOf(artefact, ABOUT, "U8"))) as WorkPlan & {
    readonly machines: unknown;
  };
  if (about.machines !== machines) throw new TypeError("Expected a plan for this model and machine, got another");
  const [length = 0, ...counts] = arrayOf(artefact, SHAPE, "I32");
  const tokens = arrayOf(artefact, TOKENS, "I32");
  const isWhole = length > 0 && counts.every((count) => count > 0);
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (!isWhole || total * length !== tokens.length || tokens.some((token) => token < 0 || token >= config.vocabSize)) {
    throw new RangeError("Expected a plan to have whole sequences of the model's tokens, got others");
  }
  let at = 0;
  const next = (): Int32Array => tokens.slice(at, (at += length));
  const groups = counts.map((count) => Array.from({ length: count }, next));
  return { kind: about.kind, options: about.options, groups };
}

/**
 * Identifies the machines that give a task the same result to the last bit: those with the same files of the model and
 * the same arithmetic. Processors with other instructions round sums of the runtime in other orders, and the kernel in
 * WebAssembly does not fuse products and sums.
 */
export async function machinesOf(fingerprint: string, threads: number | undefined): Promise<string> {
  const { kind } = kernelInfo({}, kernelThreads(threads));
  const parts = [TASK_VERSION, fingerprint, kernelVersion(), kind, await arithmetic(threads)];
  return hashOf(new TextEncoder().encode(JSON.stringify(parts)));
}

/** Sizes that no vector length divides, of a product that is higher than wide. */
const [ROWS, DEPTH, COLUMNS] = [141, 331, 67] as const;

/** Hashes the results of products, sums and exponentials of the inference runtime on fixed numbers. */
async function arithmetic(threads: number | undefined): Promise<string> {
  const hash = createHash("sha256");
  for (const type of ["float32", "float64"] as const) {
    const random = seededRandom(1);
    const numbers = (rows: number, columns: number): GraphTensor => {
      const values = Array.from({ length: rows * columns }, () => random() - 0.5);
      return {
        data: type === "float32" ? Float32Array.from(values) : Float64Array.from(values),
        dims: [rows, columns],
      };
    };
    const g = new GraphBuilder("arithmetic");
    const [a, b] = [g.input("a", type, ["m", "k"]), g.input("b", type, ["k", "n"])];
    const product = operators.Gemm(g, a, b, { transB: false });
    g.output("product", product, type, ["m", "n"]);
    if (type === "float32") {
      g.output("softmax", operators.Softmax(g, product, 1), type, ["m", "n"]);
      g.output("sums", operators.ReduceSum(g, product, 0), type, ["n"]);
      // Its bits are others with more threads than `deterministicGemm` is made for.
      const wide = operators.Gemm(g, a, g.input("wide", type, ["k", "w"]), { transB: false });
      g.output("wideProduct", wide, type, ["m", "w"]);
    }
    const session = await GraphSession.open(g.build(), { threads });
    try {
      const wide = type === "float32" ? { wide: numbers(DEPTH, STEADY_COLUMNS) } : {};
      const outputs = await session.run({ a: numbers(ROWS, DEPTH), b: numbers(DEPTH, COLUMNS), ...wide });
      for (const [, { data }] of Object.entries(outputs).toSorted(([one], [other]) => (one < other ? -1 : 1))) {
        hash.update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
      }
    } finally {
      await session.dispose();
    }
  }
  return hash.digest("hex");
}

function hashOf(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}
