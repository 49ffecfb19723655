// Places where the tasks of a fit run and their results are stored: here, or on the machines of a fleet.

import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { seededRandom } from "@readme-moe/core";
import type { ModelConfig } from "@readme-moe/model";
import { GraphBuilder } from "../graphs/graph-builder.ts";
import * as operators from "../graphs/operators.ts";
import { GraphSession, type GraphTensor } from "../graphs/session.ts";
import type { WorkFolder } from "../job/work-folder.ts";
import { STEADY_COLUMNS } from "../linear-algebra/deterministic-gemm.ts";
import type { RefactorFleet, RefactorRun } from "../options.ts";
import type { FitPlan, FitSetting } from "./fit-tasks.ts";
import { arrayOf, decodeArtefact, encodeArtefact } from "./results.ts";
import { writeLayer, LocalStore, planKey, SharedStore, TaskRunner } from "./task-runner.ts";
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

// The plan of work that machines share as bytes, and which machines give it the same result.

/** Version of tasks and their results; a change of either raises it, so that results of other code are not used. */
const TASK_VERSION = 2;

/** Inputs of work that decide its result, beside the model. */
export interface WorkPlan {
  /** A fit of experts, or a training of experts of low rank. */
  readonly kind: "fit" | "low-rank";
  /** Options of this kind of work, as plain data. */
  readonly options: object;
  /** Sequences of each kind of text or expert, all of equal length. */
  readonly groups: readonly (readonly Int32Array[])[];
}

const ABOUT = "about";
const SHAPE = "shape";
const TOKENS = "tokens";

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
  const about = JSON.parse(new TextDecoder().decode(arrayOf(artefact, ABOUT, "u8"))) as WorkPlan & {
    readonly machines: unknown;
  };
  if (about.machines !== machines) throw new TypeError("Expected a plan for this model and machine, got another");
  const [length = 0, ...counts] = arrayOf(artefact, SHAPE, "i32");
  const tokens = arrayOf(artefact, TOKENS, "i32");
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
 * the same arithmetic. Processors with other instructions round sums in other orders.
 */
export async function machinesOf(fingerprint: string, threads: number | undefined): Promise<string> {
  const parts = [TASK_VERSION, fingerprint, await arithmetic(threads)];
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
