// Steps of mixtures whose experts are placed after each router has chosen, and removed after the layer.

import {
  expertUnits,
  openKernel,
  type DecoderDescription,
  type Kernel,
  type KernelChoice,
  type KernelSizes,
} from "@readme-moe/kernel";
import { pageMemory } from "../page-memory.ts";

/** The part of a kernel that a replay needs. */
export type SteppingKernel = Pick<Kernel, "openPages" | "step">;

/** A kernel without experts, and its steps with those that rows use. */
export interface RoutedKernel extends SteppingKernel {
  readonly kernel: Kernel;
  /** The last step's choices, by layer; `undefined` for dense layers. */
  readonly chosen: readonly (Int32Array | undefined)[];
}

/** Opens a packed model of which all experts are placed one by one. */
export function openRouted(
  bytes: Uint8Array,
  description: DecoderDescription,
  sizes: KernelSizes,
  choice: KernelChoice,
): RoutedKernel {
  const units = expertUnits(description);
  const kernel = openKernel(bytes, { ...sizes, expertsFromByte: units.fromByte }, choice);
  const chosen: (Int32Array | undefined)[] = [];
  // Memory of one unit for each expert, used by all layers.
  const most = Math.max(...units.layerBytes);
  const memory = Array.from({ length: units.numExperts }, () => kernel.newUnit?.(most) ?? pageMemory(most));
  const place = (layer: number, expert: number): void => {
    const { start, bytes: length } = units.rangeOf(layer, expert);
    const unit = memory[expert]?.subarray(0, length);
    unit?.set(bytes.subarray(start, start + length));
    kernel.placeUnit(layer, expert, unit);
  };
  return {
    kernel,
    chosen,
    openPages: (...counts) => kernel.openPages(...counts),
    step(pages, request, results) {
      chosen.length = 0;
      kernel.beginStep(pages, request, results);
      for (const [layer, { mixture }] of description.layers.entries()) {
        if (!mixture) {
          chosen.push(undefined);
          kernel.runLayers(layer, layer + 1);
          continue;
        }
        const own = kernel.routeLayer(layer);
        chosen.push(own);
        for (const expert of new Set(own)) place(layer, expert);
        kernel.feedLayer(layer);
        for (const expert of new Set(own)) kernel.placeUnit(layer, expert, undefined);
      }
      kernel.endStep();
    },
  };
}
