// The paper's experts of a layer: neurons that all domains choose are split off for every token, and nothing is fitted.

import type { DenseDown } from "../layers/layer-source.ts";
import { densePart } from "./fit-part.ts";
import type { LayerExperts, Part } from "./layer-experts.ts";
import { paperNeurons } from "./select.ts";

/**
 * Equation 3, and the paper's permanent expert. The shared part leaves each expert one neuron at least.
 *
 * @param magnitudes - summed |activation| of each neuron, by expert
 * @param size - neurons that a token uses
 * @param isOfficial - one neuron less, see `paperNeurons`
 */
export function paperLayer(
  magnitudes: readonly ArrayLike<number>[],
  size: number,
  down: DenseDown,
  isOfficial = false,
): LayerExperts {
  const chosen = magnitudes.map((sums) => paperNeurons(sums, size, isOfficial));
  const sets = chosen.map((neurons) => new Set(neurons));
  const isCommon = (neuron: number): boolean => sets.every((set) => set.has(neuron));
  const most = (chosen[0]?.length ?? 0) - 1;
  const common = chosen.length > 1 ? (chosen[0] as Int32Array).filter(isCommon).subarray(0, most) : new Int32Array(0);
  if (common.length === 0) return { shared: undefined, experts: chosen.map((neurons) => densePart(neurons, down)) };
  const isShared = new Set(common);
  const specific = (neurons: Int32Array): Part => ({
    ...densePart(
      neurons.filter((neuron) => !isShared.has(neuron)),
      down,
    ),
    bias: new Float32Array(down.weight.rows),
  });
  return { shared: densePart(common, down), experts: chosen.map(specific) };
}
