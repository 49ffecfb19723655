// A machine that runs tasks of refactorings of one model.

import type { ArtefactStore } from "@readme-moe/core";
import { resolveCacheFolder, type Model } from "@readme-moe/model";
import { Products } from "../linear-algebra/products.ts";
import type { PassOptions } from "../layers/run-layer.ts";
import { refuseMixture } from "../job/refuse-mixture.ts";
import { fitSetting, type FitSetting } from "./fit-setting.ts";
import { decodePlan, machinesOf } from "./plan.ts";
import { planKey, SharedStore } from "./shared-store.ts";
import { TaskRunner } from "./task-runner.ts";
import { parseTask } from "./task.ts";

/** Options of `RefactorWorker.open`. */
export interface RefactorWorkerOptions extends PassOptions {
  /** Store that the machines share. */
  readonly artefacts: ArtefactStore;
}

interface OpenPlan {
  readonly id: string;
  readonly setting: FitSetting;
  readonly runner: TaskRunner;
}

/** Runs tasks of refactorings of one model. */
export class RefactorWorker {
  readonly #model: Model;
  readonly #products: Products;
  readonly #options: RefactorWorkerOptions;
  /** Identity of the machines that give the same results as this one: they have a queue of their own. */
  readonly machines: string;
  /** Plan of the last task. */
  #open: OpenPlan | undefined;

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
    const { runner, setting } = await this.#plan(plan);
    await runner.run(parseTask(task, setting.bounds));
  }

  async dispose(): Promise<void> {
    await this.#products.dispose();
  }

  async #plan(id: string): Promise<OpenPlan> {
    if (this.#open?.id === id) return this.#open;
    const { artefacts, ...run } = this.#options;
    const bytes = await artefacts.get(planKey(id));
    if (!bytes) throw new TypeError("Expected the plan of a task to be in the store, got none");
    const plan = decodePlan(bytes, { id, machines: this.machines, config: this.#model.config });
    const setting = fitSetting(plan, { model: this.#model, products: this.#products, run });
    this.#open = { id, setting, runner: new TaskRunner(setting, new SharedStore(artefacts, id)) };
    return this.#open;
  }
}
