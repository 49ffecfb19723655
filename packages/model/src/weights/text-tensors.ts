// The tensors of the model of text in a multimodal checkpoint, under the names that they have in a checkpoint of text.

import { unsupported } from "../files/errors.ts";
import type { RowRange, TensorInfo, TensorStore } from "../tensor-store.ts";

/** Beginnings of names and what they are in a checkpoint of text: of transformers from 4.52 on, and before. */
const PREFIXES: readonly (readonly [string, string])[] = [
  ["model.language_model.", "model."],
  ["language_model.model.", "model."],
  ["language_model.lm_head.", "lm_head."],
];

const IMAGE_TOWER = /(?:^|\.)(?:vision_tower|vision_model|multi_modal_projector)\./;

/**
 * Finds the tensors of the model of text; a store without others is returned as it is.
 *
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` naming a tensor of an image tower
 */
export function textTensors(store: TensorStore): TensorStore {
  const ofImages = store.names.find((name) => IMAGE_TOWER.test(name));
  if (ofImages !== undefined) {
    throw unsupported(
      store.path,
      `tensor ${ofImages} is of an image tower, which is not supported; save the text part`,
    );
  }
  const originals = new Map(store.names.map((name) => [renamed(name), name]));
  const isRenamed = Array.from(originals).some(([name, original]) => name !== original);
  return isRenamed ? new RenamedStore(store, originals) : store;
}

function renamed(name: string): string {
  const [from, to] = PREFIXES.find(([prefix]) => name.startsWith(prefix)) ?? ["", ""];
  return to + name.slice(from.length);
}

/** A store whose tensors have other names. Closing it closes the store underneath. */
class RenamedStore implements TensorStore {
  readonly path: string;
  readonly names: readonly string[];
  readonly #store: TensorStore;
  readonly #originals: ReadonlyMap<string, string>;

  /** @param originals - names in `store` by their new ones */
  constructor(store: TensorStore, originals: ReadonlyMap<string, string>) {
    this.path = store.path;
    this.names = Array.from(originals.keys());
    this.#store = store;
    this.#originals = originals;
  }

  has(name: string): boolean {
    return this.#originals.has(name);
  }

  info(name: string): TensorInfo {
    return { ...this.#store.info(this.#original(name)), name };
  }

  readBytes(name: string, rows?: RowRange): Promise<Uint8Array> {
    return this.#store.readBytes(this.#original(name), rows);
  }

  readFloats(name: string, rows?: RowRange): Promise<Float32Array> {
    return this.#store.readFloats(this.#original(name), rows);
  }

  close(): Promise<void> {
    return this.#store.close();
  }

  /** A name that does not exist is looked for in the store underneath, which refuses it with its own error. */
  #original(name: string): string {
    return this.#originals.get(name) ?? name;
  }
}
