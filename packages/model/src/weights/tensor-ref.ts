import { ReadMeError } from "@readme-moe/core";
import type { TensorStore } from "../tensor-store.ts";

/** One tensor of one store that exists with this shape. Nothing is read yet. */
export interface TensorRef {
  readonly store: TensorStore;
  readonly name: string;
  readonly shape: readonly number[];
}

/**
 * Finds a tensor.
 *
 * @param shape - the shape that follows from the config
 * @throws {ReadMeError} `ERR_MODEL_INVALID` naming file and tensor, when it is missing or has another shape
 */
export function tensorRef(store: TensorStore, name: string, shape: readonly number[]): TensorRef {
  const actual = store.info(name).shape;
  if (actual.length !== shape.length || actual.some((size, axis) => size !== shape[axis])) {
    throw new ReadMeError(
      "ERR_MODEL_INVALID",
      `${store.path}: tensor ${name} has shape [${actual.join(", ")}], the config promises [${shape.join(", ")}]`,
    );
  }
  return { store, name, shape };
}
