// Chances of later experts, computed the long way: every count has a name in one map, and tokens keep all their layers.

import type { RouteShape } from "@readme-moe/core";

/** A token's experts by layer, as far as it has run. */
type Token = (readonly number[] | undefined)[];

const MOST = 1024;

export class PlainRouteForecast {
  readonly #shape: RouteShape;
  readonly #ahead: number;
  readonly #counts = new Map<string, number>();
  /** The last token of each sequence, as its layers ran. */
  readonly #last = new Map<number, Token>();
  #rows: { sequence: number; token: Token; isFirst: boolean; isLast: boolean }[] = [];
  readonly chances: number[][];

  constructor(shape: RouteShape, ahead: number) {
    this.#shape = shape;
    this.#ahead = ahead;
    this.chances = Array.from({ length: shape.numLayers }, () => Array<number>(shape.numExperts).fill(0));
  }

  beginStep(sequences: readonly number[]): void {
    this.#rows = sequences.map((sequence, row) => ({
      sequence,
      token: [],
      isFirst: sequences[row - 1] !== sequence,
      isLast: sequences[row + 1] !== sequence,
    }));
  }

  observe(layer: number, routes: ReadonlyMap<number, readonly number[]>): void {
    const routed = this.#rows.filter((_, row) => routes.has(row));
    for (const [row, experts] of routes) this.#rows[row]!.token[layer] = experts;
    for (const { sequence, token, isFirst } of routed) {
      const own = token[layer]!;
      const past = isFirst ? this.#last.get(sequence) : undefined;
      const sourcesAt = (distance: number) =>
        layer >= distance ? token[layer - distance] : past?.[layer - distance + this.#shape.numLayers];
      for (let distance = 0; distance <= this.#ahead; distance++) {
        const sources = distance > 0 ? sourcesAt(distance) : [];
        if (!sources) continue;
        const shares = this.#experts.map((expert) => this.#share(layer, distance, sources, expert));
        for (const expert of this.#experts) {
          const evidence = this.#evidence(layer, distance, past?.[layer], expert, shares[expert]!);
          this.#add(`try ${evidence}`, [`hit ${evidence}`], own.includes(expert) ? [`hit ${evidence}`] : []);
        }
      }
      for (let distance = 1; distance <= this.#ahead; distance++) {
        for (const source of sourcesAt(distance) ?? []) {
          const key = `${layer} ${distance} ${source}`;
          const names = (experts: readonly number[]) => experts.map((expert) => `after ${key} ${expert}`);
          this.#add(`from ${key}`, names(this.#experts), names(own));
        }
      }
      const names = (experts: readonly number[]) => experts.map((expert) => `use ${layer} ${expert}`);
      this.#add(`token ${layer}`, names(this.#experts), names(own));
    }
    for (const { sequence, token, isLast } of routed) {
      if (!isLast) continue;
      const past = this.#last.get(sequence) ?? [];
      past[layer] = token[layer];
      this.#last.set(sequence, past);
    }
    for (let distance = 0; distance <= this.#ahead; distance++) {
      const target = layer + distance;
      const isNextToken = distance === 0 || target >= this.#shape.numLayers;
      const at = target % this.#shape.numLayers;
      this.chances[at] = this.#experts.map((expert) => {
        let unused = 1;
        for (const { sequence, token, isFirst, isLast } of routed) {
          if (isNextToken && !isLast) continue;
          const past = isNextToken || isFirst ? this.#last.get(sequence)?.[at] : undefined;
          const share = this.#share(at, distance, distance === 0 ? [] : token[layer]!, expert);
          const evidence = this.#evidence(at, distance, past, expert, share);
          unused *= 1 - Math.min(1, (this.#of(`hit ${evidence}`) + 2 * share) / (this.#of(`try ${evidence}`) + 2));
        }
        return 1 - unused;
      });
    }
  }

  get #experts(): readonly number[] {
    return Array.from({ length: this.#shape.numExperts }, (_, expert) => expert);
  }

  #share(layer: number, distance: number, sources: readonly number[], expert: number): number {
    const { numExperts, expertsPerToken } = this.#shape;
    const prior = (2 * expertsPerToken) / numExperts;
    const usual = (this.#of(`use ${layer} ${expert}`) + prior) / (this.#of(`token ${layer}`) + 2);
    if (distance === 0) return usual;
    return sources.reduce((sum, source) => {
      const key = `${layer} ${distance} ${source}`;
      // In this order: a share at the edge of a class must be rounded in the same way.
      const weight = 1 / sources.length / (this.#of(`from ${key}`) + 2);
      return sum + weight * (this.#of(`after ${key} ${expert}`) + 2 * usual);
    }, 0);
  }

  #evidence(layer: number, distance: number, past: readonly number[] | undefined, expert: number, share: number) {
    const before = past ? `${past.includes(expert)}` : "unknown";
    return `${layer} ${distance} ${before} ${Math.min(15, Math.floor(16 * Math.sqrt(share)))}`;
  }

  #of(name: string): number {
    return this.#counts.get(name) ?? 0;
  }

  /** Adds one to a total and to some of its parts; all are halved when the total reaches the limit. */
  #add(total: string, parts: readonly string[], raised: readonly string[]): void {
    for (const name of [total, ...raised]) this.#counts.set(name, this.#of(name) + 1);
    if (this.#of(total) < MOST) return;
    for (const name of [total, ...parts]) this.#counts.set(name, Math.floor(this.#of(name) / 2));
  }
}
