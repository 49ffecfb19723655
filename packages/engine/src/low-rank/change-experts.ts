// Opens the low-rank experts of an engine, and adds and removes them while it runs.

import { setImmediate as nextTurn } from "node:timers/promises";
import { gatherExperts, type LowRankSet, type Model } from "@readme-moe/model";
import type { KernelRunner } from "../kernel-runner.ts";
import type { EngineCore } from "../engine-core.ts";
import type { EngineOutput } from "../engine-parts.ts";
import { type AddedExpert, type LowRankExperts, notDense } from "./low-rank-experts.ts";
import type { LowRankRouters } from "./routers.ts";

/** Receives the events of experts. */
export type OnExpertAdded = (event: AddedExpert) => void;

/**
 * Adds a dense model's low-rank experts to its runner: those of its folder, then further ones.
 *
 * @param loras - folders of adapters or expert sets, by name
 * @returns the set of all, which the caller closes
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` if the model is not dense; as `gatherExperts` and `LowRankExperts.add`
 */
export async function openExperts(
  runner: KernelRunner,
  model: Model,
  loras: Readonly<Record<string, string>> = {},
  onAdded?: OnExpertAdded,
): Promise<LowRankSet> {
  const { lowRank } = runner;
  if (!lowRank && Object.keys(loras).length > 0) throw notDense(model);
  const set = await gatherExperts(model, loras);
  try {
    for (const { name, path } of set.experts) {
      const added = await lowRank?.add(name, path);
      if (added) onAdded?.(added);
    }
    return set;
  } catch (error) {
    await set.close();
    throw error;
  }
}

/** Parts of an engine with a dense model. */
interface ChangingExperts {
  readonly runner: KernelRunner;
  readonly routers: LowRankRouters;
  readonly core: EngineCore;
  readonly output: EngineOutput;
}

/** Adds an expert, see `Engine.addExpert`. @returns the names of all experts */
export async function addExpert(
  model: Model,
  changing: ChangingExperts | undefined,
  name: string,
  path: string,
): Promise<readonly string[]> {
  const { runner, output, lowRank } = partsOf(model, changing);
  output.event("expert:added", await lowRank.add(name, path));
  return runner.expertNames;
}

/** Removes an expert, see `Engine.removeExpert`. @returns the names of all experts */
export async function removeExpert(
  model: Model,
  changing: ChangingExperts | undefined,
  name: string,
): Promise<readonly string[]> {
  const { runner, routers, core, output, lowRank } = partsOf(model, changing);
  // Refuses also an expert that is being added or removed.
  const index = lowRank.names.indexOf(name);
  lowRank.names.setUsable(index, false);
  const fixed = routers.forget(index);
  // A request may have its router and no sequence yet.
  await nextTurn();
  await core.whenNone(({ router, experts }) => router === fixed || experts.includes(index));
  lowRank.remove(index);
  core.forgetExpert(index);
  output.event("expert:removed", { name, index });
  return runner.expertNames;
}

function partsOf(
  model: Model,
  changing: ChangingExperts | undefined,
): ChangingExperts & { readonly lowRank: LowRankExperts } {
  const lowRank = changing?.runner.lowRank;
  if (changing && lowRank) return { ...changing, lowRank };
  throw notDense(model);
}
