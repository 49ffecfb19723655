// Puts a layer together: chooses the shared size, and adds what the result is compared with.

import { addErrors, type AttendedStates, type LayerPass } from "../layers/run-layer.ts";
import type { Batch } from "../layers/token-stream.ts";
import type { LayerExperts } from "../experts/layer-experts.ts";
import type { Artefact } from "./artefact.ts";
import { fittedPart, joinExperts, paperExperts } from "./fit-tasks.ts";
import type { FitSetting } from "./fit-setting.ts";
import { layerArtefact, readStates } from "./results.ts";
import { passOf } from "./run-pass.ts";
import type { FitFamily } from "./task.ts";

/** Readers of a layer's results so far. */
export interface LayerInputs {
  readonly parts: () => Promise<Artefact>;
  readonly fit: (family: FitFamily, expert: number, size: number) => Promise<Artefact>;
  /** Reads the streams of a shard. */
  readonly states: (shard: number) => Promise<Artefact>;
}

type Experts = ReturnType<typeof joinExperts>;

export async function joinLayer(setting: FitSetting, layer: number, inputs: LayerInputs): Promise<Artefact> {
  const { numExperts, numSizes, baselines } = setting.bounds;
  const parts = await inputs.parts();
  const candidates: Experts[] = [];
  for (let size = 0; size < numSizes; size++) {
    const fits: Artefact[] = [];
    for (let expert = 0; expert < numExperts; expert++) fits.push(await inputs.fit("ours", expert, size));
    candidates.push(joinExperts(setting, { parts, fits, size }));
  }
  const ours = await chooseSize(setting, layer, candidates, inputs);
  const families: Record<string, LayerExperts> = { ours };
  const figures: Record<string, readonly number[]> = { ours: ours.relativeErrors };
  if (baselines) {
    const single = joinExperts(setting, { parts: new Map(), fits: [await inputs.fit("static", 0, 0)], size: 0 });
    families["static"] = single;
    figures["static"] = single.relativeErrors;
    families["paper"] = paperExperts(parts);
    const random = [];
    for (let expert = 0; expert < numExperts; expert++) {
      random.push(fittedPart(await inputs.fit("random", expert, 0)));
    }
    families["random"] = { shared: undefined, experts: random };
  }
  return layerArtefact({ families, figures });
}

/** Returns the candidate with the smallest error on the text that is held back. */
async function chooseSize(
  setting: FitSetting,
  layer: number,
  candidates: readonly Experts[],
  inputs: LayerInputs,
): Promise<Experts> {
  const [first] = candidates;
  if (!first) throw new RangeError("Expected `sharedSizes` to have an entry, got none");
  if (candidates.length === 1) return first;
  const sums = candidates.map(() => 0);
  for (const [index, shard] of setting.text.shards.entries()) {
    if (shard.heldBack.size === 0) continue;
    const { attended, goalRows, goalWeights } = readStates(await inputs.states(index));
    const goal = { rows: goalRows, weights: goalWeights };
    const where = { share: setting.share, batches: shard.heldBack, experts: shard.experts };
    for (const [size, candidate] of candidates.entries()) {
      sums[size]! += await ownErrors(passOf(setting, shard, layer), { attended, goal }, candidate, where);
    }
  }
  return candidates[sums.indexOf(Math.min(...sums))] ?? first;
}

/** Text that errors are measured on. */
interface OwnText {
  readonly share: number;
  readonly batches: ReadonlySet<Batch>;
  /** Expert of each of the stream's domains. */
  readonly experts: readonly number[];
}

/** Sums the errors of each domain's own expert over the tokens of some batches. */
export async function ownErrors(
  pass: LayerPass,
  inputs: AttendedStates,
  layer: LayerExperts,
  { share, batches, experts }: OwnText,
): Promise<number> {
  const { stream } = pass;
  const numExperts = layer.experts.length;
  const costs = new Float32Array(stream.numTokens * numExperts);
  await addErrors(pass, inputs, layer, { share, costs, wants: (batch) => batches.has(batch) });
  let sum = 0;
  for (const batch of batches) {
    const own = stream.view(costs, batch, numExperts);
    for (let at = experts[batch.domain] ?? 0; at < own.length; at += numExperts) sum += own[at]!;
  }
  return sum;
}
