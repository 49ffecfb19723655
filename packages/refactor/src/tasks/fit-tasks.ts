// Tasks that make a layer's experts out of the statistics of all shards.

import {
  errorOfExpert,
  fitExpert,
  fitRandomExpert,
  fitShared,
  type ExpertMoments,
  type LayerFit,
} from "../experts/fit-layer.ts";
import type { LayerExperts, Part } from "../experts/layer-experts.ts";
import { addInto, addMoments, pooled, type Moments } from "../experts/moments.ts";
import { paperLayer } from "../experts/select.ts";
import { layerSource, readDense } from "../layers/layer-source.ts";
import { arrayOf, type Artefact } from "./artefact.ts";
import type { FitSetting } from "./fit-setting.ts";
import { expertArrays, momentArrays, partArrays, readExperts, readMoments, readPart } from "./results.ts";
import { magnitudesOf } from "./run-pass.ts";
import { ALL_MOMENTS, momentsPart, STATIC_MOMENTS, type FitFamily } from "./task.ts";

/** Name of the moments in a part of a pool; the part's name says whose they are. */
const MOMENTS = "moments";
/** Name of the paper's experts in the parts of a pool. */
const PAPER = "paper";

function sharedName(size: number): string {
  return `shared-${size}`;
}

/** Adds statistics up in the order of shards, whoever computed them. */
class StatisticsSum {
  readonly #moments = new Map<string, Moments>();
  readonly #magnitudes = new Map<number, Float64Array>();

  /** Adds a shard's statistics, whose arrays are kept and may be overwritten. */
  add(statistics: Artefact, numExperts: number): void {
    for (const part of [...Array.from({ length: numExperts }, (_, expert) => momentsPart(expert)), STATIC_MOMENTS]) {
      const moments = readMoments(statistics, part);
      const sum = this.#moments.get(part);
      if (moments && sum) addMoments(sum, moments);
      else if (moments) this.#moments.set(part, moments);
    }
    for (let expert = 0; expert < numExperts; expert++) {
      if (!statistics.has(magnitudesOf(expert))) continue;
      const magnitudes = arrayOf(statistics, magnitudesOf(expert), "f64");
      const sum = this.#magnitudes.get(expert);
      if (sum) addInto(sum, magnitudes);
      else this.#magnitudes.set(expert, magnitudes);
    }
  }

  moments(part: string): Moments {
    const moments = this.#moments.get(part);
    if (moments) return moments;
    throw new TypeError(`Expected statistics to have \`${part}\`, got none`);
  }

  magnitudes(numExperts: number): readonly Float64Array[] {
    return Array.from({ length: numExperts }, (_, expert) => {
      const magnitudes = this.#magnitudes.get(expert);
      if (magnitudes) return magnitudes;
      throw new TypeError(`Expected statistics to have \`${magnitudesOf(expert)}\`, got none`);
    });
  }
}

/**
 * Adds up the statistics of all shards, and makes what all experts need: the paper's experts, and a shared part of each
 * size.
 *
 * @param statisticsOf - reads a shard's statistics; they may be overwritten
 */
export async function runPool(
  setting: FitSetting,
  layer: number,
  statisticsOf: (shard: number) => Promise<Artefact>,
): Promise<ReadonlyMap<string, Artefact>> {
  const { bounds, options, sharedSizes, settings } = setting;
  const { numExperts, numShards, baselines } = bounds;
  const sum = new StatisticsSum();
  for (let shard = 0; shard < numShards; shard++) sum.add(await statisticsOf(shard), numExperts);
  const own = Array.from({ length: numExperts }, (_, expert) => sum.moments(momentsPart(expert)));
  const all = pooled(own);
  const fit = await layerFit(setting, layer);
  const parts = new Map(
    expertArrays(PAPER, paperLayer(sum.magnitudes(numExperts), settings.usedSize, fit.dense, options.officialCount)),
  );
  for (const [size, sharedSize] of options.method === "paper" ? [] : sharedSizes.entries()) {
    const shared = await fitShared(all, { ...fit, settings: { ...settings, sharedSize } });
    for (const [name, values] of shared ? partArrays(sharedName(size), shared) : []) parts.set(name, values);
  }
  return new Map<string, Artefact>([
    ...own.map((one, expert) => pooledMoments(momentsPart(expert), one)),
    pooledMoments(ALL_MOMENTS, all),
    ...(baselines ? [pooledMoments(STATIC_MOMENTS, sum.moments(STATIC_MOMENTS))] : []),
    ["parts", parts],
  ]);
}

function pooledMoments(part: string, moments: Moments): readonly [part: string, artefact: Artefact] {
  return [part, new Map(momentArrays(MOMENTS, moments))];
}

/** Reads a part of a layer's pool. */
type ReadPool = (part: string) => Promise<Artefact>;

/** Fits one expert of a family. */
export async function runFit(
  setting: FitSetting,
  task: { readonly layer: number; readonly family: FitFamily; readonly expert: number; readonly size: number },
  pool: ReadPool,
): Promise<Artefact> {
  const { layer, family, expert, size } = task;
  const fit = await layerFit(setting, layer);
  if (family === "static") {
    const own = await readMomentsOf(pool, STATIC_MOMENTS);
    const settings = { ...fit.settings, sharedSize: 0, refits: true };
    return partArtefact(await fitExpert({ own, all: own }, undefined, { ...fit, settings }));
  }
  if (family === "random") {
    const drawn = { seed: setting.options.seed + layer, expert };
    return partArtefact(await fitRandomExpert(await expertMoments(pool, expert), fit, drawn));
  }
  const parts = await pool("parts");
  if (setting.options.method === "paper")
    return paperFit(parts, await readMomentsOf(pool, momentsPart(expert)), expert, fit);
  const settings = { ...fit.settings, sharedSize: setting.sharedSizes[size] ?? 0 };
  const shared = readPart(parts, sharedName(size));
  return partArtefact(await fitExpert(await expertMoments(pool, expert), shared, { ...fit, settings }));
}

/** Measures one of the paper's experts, which is not fitted. */
async function paperFit(parts: Artefact, own: Moments, expert: number, { products }: LayerFit): Promise<Artefact> {
  const { shared, experts } = paperExperts(parts);
  const part = experts[expert];
  if (!part) throw new RangeError(`Expected an expert below ${experts.length}, got ${expert}`);
  return partArtefact({ ...part, relativeError: await errorOfExpert(own, { shared, part }, products) });
}

/** Puts the experts of one shared size together. */
export function joinExperts(
  { options }: FitSetting,
  { parts, fits, size }: { readonly parts: Artefact; readonly fits: readonly Artefact[]; readonly size: number },
): LayerExperts & { readonly relativeErrors: readonly number[] } {
  const shared = options.method === "paper" ? paperExperts(parts).shared : readPart(parts, sharedName(size));
  return { shared, experts: fits.map(fittedPart), relativeErrors: fits.map(errorIn) };
}

/** Reads the paper's experts of a layer's pool. */
export function paperExperts(parts: Artefact): LayerExperts {
  return readExperts(parts, PAPER);
}

const PART = "part";
const ERROR = "relativeError";

function partArtefact(part: Part & { readonly relativeError?: number }): Artefact {
  return new Map([...partArrays(PART, part), [ERROR, Float64Array.of(part.relativeError ?? NaN)]]);
}

/** Reads the result of a fit. */
export function fittedPart(fitted: Artefact): Part {
  const part = readPart(fitted, PART);
  if (part) return part;
  throw new TypeError("Expected the result of a fit to have a part, got none");
}

function errorIn(fitted: Artefact): number {
  return arrayOf(fitted, ERROR, "f64")[0] ?? NaN;
}

async function layerFit({ model, settings, products }: FitSetting, layer: number): Promise<LayerFit> {
  return { dense: await readDense(layerSource(model, layer)), settings, products };
}

async function expertMoments(pool: ReadPool, expert: number): Promise<ExpertMoments> {
  return { own: await readMomentsOf(pool, momentsPart(expert)), all: await readMomentsOf(pool, ALL_MOMENTS) };
}

async function readMomentsOf(pool: ReadPool, part: string): Promise<Moments> {
  const moments = readMoments(await pool(part), MOMENTS);
  if (moments) return moments;
  throw new TypeError(`Expected the part \`${part}\` of a pool to have moments, got none`);
}
