// A machine that runs tasks of refactorings and trainings of one model.

import type { ArtefactStore } from "@readme-moe/core";
import { resolveCacheFolder, type Model } from "@readme-moe/model";
import { Products } from "../linear-algebra/matrix.ts";
import type { PassOptions } from "../layers/run-layer.ts";
import { refuseMixture } from "../job/refactor-job.ts";
import { openLoraTasks } from "../lora/machines.ts";
import { resolveOptions } from "../options.ts";
import { fitSetting } from "./fit-tasks.ts";
import { decodePlan, machinesOf, type PlanTasks, type WorkPlan } from "./fit-work.ts";
import { planKey, sharedStore, TaskRunner, type TaskStore } from "./task-runner.ts";
import { parseTask } from "./task.ts";

/** Options of `RefactorWorker.open`. */
export interface RefactorWorkerOptions extends PassOptions {
  /** Store that the machines share. */
  readonly artefacts: ArtefactStore;
}

/** Runs tasks of refactorings and trainings of one model. */
export class RefactorWorker {
  readonly #model: Model;
  readonly #products: Products;
  readonly #options: RefactorWorkerOptions;
  /** Identity of the machines that give the same results as this one: they have a queue of their own. */
  readonly machines: string;
  /** Plan of the last task. */
  #open: { readonly id: string; readonly tasks: PlanTasks } | undefined;

  private constructor(model: Model, products: Products, machines: string, options: RefactorWorkerOptions) {
    this.#model = model;
    this.#products = products;
    this.machines = machines;
    this.#options = options;
  }

  /**
   * Opens a worker.
   *
   * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` when the model is not a dense one
   */
  static async open(model: Model, options: RefactorWorkerOptions): Promise<RefactorWorker> {
    refuseMixture(model);
    const { threads } = options;
    const machines = await machinesOf(await model.fingerprint(resolveCacheFolder()), threads);
    return new RefactorWorker(model, await Products.open(threads), machines, options);
  }

  /**
   * Runs a task and stores its result; does nothing if there is one.
   *
   * @param plan - hash of the plan
   * @param task - name of the task
   * @throws {TypeError | RangeError} when there is no such task, or the plan is for other machines
   */
  async run(plan: string, task: string): Promise<void> {
    const tasks = await this.#tasksOf(plan);
    await tasks.run(task);
  }

  async dispose(): Promise<void> {
    await this.#open?.tasks.dispose();
    await this.#products.dispose();
  }

  async #tasksOf(id: string): Promise<PlanTasks> {
    if (this.#open?.id === id) return this.#open.tasks;
    const bytes = await this.#options.artefacts.get(planKey(id));
    if (!bytes) throw new TypeError("Expected the plan of a task to be in the store, got none");
    const plan = decodePlan(bytes, { id, machines: this.machines, config: this.#model.config });
    await this.#open?.tasks.dispose();
    this.#open = undefined;
    const tasks = await this.#openTasks(plan, sharedStore(this.#options.artefacts, id));
    this.#open = { id, tasks };
    return tasks;
  }

  async #openTasks(plan: WorkPlan, store: TaskStore): Promise<PlanTasks> {
    const { artefacts: _, ...run } = this.#options;
    if (plan.kind === "low-rank") return openLoraTasks(plan, { model: this.#model, store, run });
    if (plan.kind !== "fit") throw new TypeError("Expected a plan of a fit or a training, got another");
    const options = resolveOptions(plan.options);
    const setting = fitSetting({ ...plan, options }, { model: this.#model, products: this.#products, run });
    const runner = new TaskRunner(setting, store);
    return { run: (task) => runner.run(parseTask(task, setting.bounds)), dispose: () => Promise.resolve() };
  }
}
