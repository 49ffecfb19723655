import { gatherExperts, type LowRankSet, type Model } from "@readme-moe/model";
import type { KernelRunner } from "../kernel-runner.ts";
import { type AddedExpert, notDense } from "./low-rank-experts.ts";

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
