import { ReadMeError } from "@readme-moe/core";
import { SafetensorsFile } from "../safetensors/read-safetensors.ts";
import type { TensorRef } from "../weights/tensor-ref.ts";
import type { Model } from "./model.ts";

/**
 * Reads a whole model and checks what opening it does not: that every weight is a finite number, and that an expert's
 * file holds each layer as one range of bytes.
 *
 * @throws {ReadMeError} `ERR_MODEL_INVALID` naming file and tensor
 */
export async function verifyModel(model: Model): Promise<void> {
  await verifyTensors([model.weights, model.router]);
  if (model.kind !== "read-me") return;
  const expertStores = new Set(model.weights.layers.flatMap((layer) => layer.experts.map((e) => e.gate.weight.store)));
  for (const store of expertStores) if (store instanceof SafetensorsFile) checkContiguousLayers(store);
}

/**
 * Reads all tensors of a tree of references.
 * @throws {ReadMeError} `ERR_MODEL_INVALID` naming the first one with a number that is not finite
 */
export async function verifyTensors(refs: unknown): Promise<void> {
  const seen = new Set<TensorRef>();
  for (const ref of tensorRefs(refs)) {
    if (seen.has(ref)) continue; // a tied head
    seen.add(ref);
    const values = await ref.store.readFloats(ref.name);
    const bad = values.findIndex((value) => !Number.isFinite(value));
    if (bad < 0) continue;
    const message = `${ref.store.path}: tensor ${ref.name} holds ${values[bad]} at element ${bad}`;
    throw new ReadMeError("ERR_MODEL_INVALID", message);
  }
}

function* tensorRefs(refs: unknown): Generator<TensorRef> {
  if (typeof refs !== "object" || refs === null) return;
  if (isTensorRef(refs)) yield refs;
  else for (const inner of Object.values(refs)) yield* tensorRefs(inner);
}

function isTensorRef(value: object): value is TensorRef {
  return "store" in value && "shape" in value;
}

/** @throws {ReadMeError} `ERR_MODEL_INVALID` when a layer's tensors are not one contiguous range of the file */
function checkContiguousLayers(store: SafetensorsFile): void {
  const { path } = store;
  const byOffset = store.names.toSorted((a, b) => store.info(a).offset - store.info(b).offset);
  const finished = new Set<string>();
  let current: string | undefined;
  for (const name of byOffset) {
    const layer = /^model\.layers\.(\d+)\./.exec(name)?.[1];
    if (layer === undefined) throw new ReadMeError("ERR_MODEL_INVALID", `${path}: ${name} is no tensor of an expert`);
    if (layer === current) continue;
    if (current !== undefined) finished.add(current);
    if (finished.has(layer)) {
      throw new ReadMeError("ERR_MODEL_INVALID", `${path}: the tensors of layer ${layer} are not together in the file`);
    }
    current = layer;
  }
}
