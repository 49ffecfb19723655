// What the expert cache holds: one layer of one expert is a unit, read and evicted as a whole.

/** One layer of one expert. */
export interface ExpertUnit {
  /** In `[0, numLayers)`. */
  readonly layer: number;
  /** In `[0, numExperts)`. */
  readonly expert: number;
}

/** Which units a model has, and how large they are. */
export interface ExpertLayout {
  readonly numExperts: number;
  /** Bytes of one expert in each layer, `[numLayers]`. */
  readonly layerBytes: readonly number[];
}

/** Number of a unit: layer by layer, in each expert by expert. */
export function unitIndex({ layer, expert }: ExpertUnit, { numExperts }: Pick<ExpertLayout, "numExperts">): number {
  return layer * numExperts + expert;
}

/** Bytes of a unit: those of its layer, whose experts are equally large. */
export function unitBytes({ layer }: Pick<ExpertUnit, "layer">, { layerBytes }: ExpertLayout): number {
  return layerBytes[layer] as number;
}

/** Bytes of one whole expert, all layers. */
export function expertBytes({ layerBytes }: Pick<ExpertLayout, "layerBytes">): number {
  return layerBytes.reduce((sum, bytes) => sum + bytes, 0);
}
