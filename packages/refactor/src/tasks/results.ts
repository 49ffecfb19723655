// Typed results of tasks, as artefacts and back.

import type { LayerExperts, Part } from "../experts/layer-experts.ts";
import type { Moments } from "../experts/moments.ts";
import { arrayOf, type Artefact, type Values } from "./artefact.ts";

type Arrays = readonly (readonly [name: string, values: Values])[];

/** Streams of a shard between the beginning of a layer and its end. Arrays that are not needed are empty. */
export interface ShardStates {
  /** Dense model's stream behind the layer, `[tokens, hiddenSize]`. */
  readonly dense: Float32Array;
  /** Stream behind the layer's attention that its experts get. */
  readonly attended: Float32Array;
  /** Target of the experts, see `Goal`. */
  readonly goalRows: Float32Array;
  readonly goalWeights: Float32Array;
  /** Stream of the baseline without routing, behind attention. */
  readonly static: Float32Array;
  /** Costs of the layers before, `[tokens, experts]`. */
  readonly costs: Float32Array;
}

const STATES = ["dense", "attended", "goalRows", "goalWeights", "static", "costs"] as const;

export function statesArtefact(states: ShardStates): Artefact {
  return new Map(STATES.map((name) => [name, states[name]]));
}

export function readStates(artefact: Artefact): ShardStates {
  const arrays = STATES.map((name) => [name, arrayOf(artefact, name, "f32")] as const);
  return Object.fromEntries(arrays) as unknown as ShardStates;
}

export function momentArrays(prefix: string, moments: Moments): Arrays {
  return [
    [`${prefix}.gram`, moments.gram],
    [`${prefix}.cross`, moments.cross],
    [`${prefix}.neuronSums`, moments.neuronSums],
    [`${prefix}.targetSums`, moments.targetSums],
    [`${prefix}.scalars`, Float64Array.of(moments.count, moments.targetSquares)],
  ];
}

/** Reads moments; nothing if there are none with this prefix. */
export function readMoments(artefact: Artefact, prefix: string): Moments | undefined {
  if (!artefact.has(`${prefix}.gram`)) return undefined;
  const [count = NaN, targetSquares = NaN] = arrayOf(artefact, `${prefix}.scalars`, "f64");
  return {
    count,
    targetSquares,
    gram: arrayOf(artefact, `${prefix}.gram`, "f32"),
    cross: arrayOf(artefact, `${prefix}.cross`, "f32"),
    neuronSums: arrayOf(artefact, `${prefix}.neuronSums`, "f64"),
    targetSums: arrayOf(artefact, `${prefix}.targetSums`, "f64"),
  };
}

export function partArrays(prefix: string, { neurons, down, bias }: Part): Arrays {
  return [
    [`${prefix}.neurons`, neurons],
    [`${prefix}.down`, down],
    [`${prefix}.bias`, bias],
  ];
}

/** Reads a part; nothing if there is none with this prefix. */
export function readPart(artefact: Artefact, prefix: string): Part | undefined {
  if (!artefact.has(`${prefix}.neurons`)) return undefined;
  return {
    neurons: arrayOf(artefact, `${prefix}.neurons`, "i32"),
    down: arrayOf(artefact, `${prefix}.down`, "f32"),
    bias: arrayOf(artefact, `${prefix}.bias`, "f32"),
  };
}

export function expertArrays(family: string, { shared, experts }: LayerExperts): Arrays {
  return [
    ...(shared ? partArrays(`${family}.shared`, shared) : []),
    ...experts.flatMap((part, index) => partArrays(`${family}.${index}`, part)),
  ];
}

/** Reads a family of experts; without any expert if there is none. */
export function readExperts(artefact: Artefact, family: string): LayerExperts {
  const experts: Part[] = [];
  for (let part = readPart(artefact, `${family}.0`); part; part = readPart(artefact, `${family}.${experts.length}`)) {
    experts.push(part);
  }
  return { shared: readPart(artefact, `${family}.shared`), experts };
}

/** A layer: experts and figures by the name of their family. */
export interface FittedFamilies {
  readonly families: Readonly<Record<string, LayerExperts>>;
  /** Distance of each expert from the target on its own text; of some families only. */
  readonly figures: Readonly<Record<string, readonly number[]>>;
}

/** Families of a layer, from the result to what it is compared with. */
export const FAMILIES = ["ours", "static", "paper", "random"] as const;

export function layerArtefact({ families, figures }: FittedFamilies): Artefact {
  return new Map([
    ...Object.entries(families).flatMap(([family, experts]) => expertArrays(family, experts)),
    ...Object.entries(figures).map(([family, values]) => [`${family}.figures`, Float64Array.from(values)] as const),
  ]);
}

export function readLayer(artefact: Artefact): FittedFamilies {
  const present = FAMILIES.filter((family) => artefact.has(`${family}.0.neurons`));
  const figured = FAMILIES.filter((family) => artefact.has(`${family}.figures`));
  return {
    families: Object.fromEntries(present.map((family) => [family, readExperts(artefact, family)])),
    figures: Object.fromEntries(
      figured.map((family) => [family, Array.from(arrayOf(artefact, `${family}.figures`, "f64"))]),
    ),
  };
}
