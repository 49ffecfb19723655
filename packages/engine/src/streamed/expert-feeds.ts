import type { GraphTensor } from "@readme-moe/model";
import type { LayerRange } from "../decoder-graph.ts";
import type { ExpertLayer, ExpertPart } from "./expert-file.ts";

/** Weights of experts as inputs of a segment's graph: views of the memory that they were read to. */
export class ExpertFeeds {
  readonly #layers: readonly ExpertLayer[];
  /** By layer, part and expert: what the graph calls it. */
  readonly #names: readonly (readonly (readonly string[])[])[];
  /** Made once for each unit that is read. */
  readonly #views = new WeakMap<Uint8Array, readonly GraphTensor[]>();
  /** By the range's first layer. */
  readonly #feeds = new Map<number, Record<string, GraphTensor>>();

  constructor(layers: readonly ExpertLayer[], numExperts: number) {
    this.#layers = layers;
    const experts = Array.from({ length: numExperts }, (_, expert) => expert);
    this.#names = layers.map(({ parts }) =>
      parts.map(({ name }) => experts.map((expert) => name.replace(".ffn.0.", `.ffn.${expert}.`))),
    );
  }

  /**
   * @param units - of each expert that has tokens, the layers' weights
   * @returns inputs of all experts, the same object until the next call: those without tokens get the memory of another one,
   *   which nobody reads
   */
  of({ from, to }: LayerRange, units: ReadonlyMap<number, Uint8Array>): Readonly<Record<string, GraphTensor>> {
    const feeds = this.#feedsFrom(from);
    const views = new Map(Array.from(units, ([expert, memory]) => [expert, this.#viewsOf({ from, to }, memory)]));
    const [anyViews = []] = views.values();
    let place = 0;
    for (const parts of this.#names.slice(from, to)) {
      for (const names of parts) {
        for (const [expert, name] of names.entries()) {
          feeds[name] = (views.get(expert) ?? anyViews)[place] as GraphTensor;
        }
        place++;
      }
    }
    return feeds;
  }

  /** One for each range, whose names are always the same. */
  #feedsFrom(layer: number): Record<string, GraphTensor> {
    const feeds = this.#feeds.get(layer) ?? {};
    this.#feeds.set(layer, feeds);
    return feeds;
  }

  #viewsOf({ from, to }: LayerRange, memory: Uint8Array): readonly GraphTensor[] {
    const known = this.#views.get(memory);
    if (known) return known;
    const first = this.#layers[from]?.start ?? 0;
    const views = this.#layers.slice(from, to).flatMap(({ parts, start }) =>
      parts.map(({ type, shape, byteLength, offset }) => {
        const [buffer, at] = [memory.buffer as ArrayBuffer, memory.byteOffset + start - first + offset];
        return { data: viewOf(type, buffer, at, byteLength), dims: shape, isLasting: true };
      }),
    );
    this.#views.set(memory, views);
    return views;
  }
}

function viewOf(type: ExpertPart["type"], buffer: ArrayBuffer, at: number, byteLength: number): GraphTensor["data"] {
  if (type === "float32") return new Float32Array(buffer, at, byteLength / 4);
  return type === "int8" ? new Int8Array(buffer, at, byteLength) : new Uint8Array(buffer, at, byteLength);
}
