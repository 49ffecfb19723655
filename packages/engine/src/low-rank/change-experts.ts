// Adds and removes low-rank experts of an engine that runs.

import { setImmediate as nextTurn } from "node:timers/promises";
import type { Model } from "@readme-moe/model";
import type { EngineCore } from "../engine-core.ts";
import type { EngineOutput } from "../engine-parts.ts";
import type { KernelRunner } from "../kernel-runner.ts";
import { type LowRankExperts, notDense } from "./low-rank-experts.ts";
import type { LowRankRouters } from "./routers.ts";

/** Parts of an engine with a dense model. */
export interface ChangingExperts {
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
