import { ReadMeError } from "@readme-moe/core";
import { SafetensorsFile } from "../safetensors/read-safetensors.ts";
import type { TensorRef } from "../weights/tensor-ref.ts";
import { checkContiguousLayers } from "./write-read-me.ts";
import type { Model } from "./model.ts";

/**
 * Reads a whole model and checks what opening it does not: that every weight is a finite number, and that an
 * expert's file holds each layer as one range of bytes.
 *
 * @throws {ReadMeError} `ERR_MODEL_INVALID` naming file and tensor
 */
export async function verifyModel(model: Model): Promise<void> {
  const seen = new Set<TensorRef>();
  for (const ref of tensorRefs([model.weights, model.router])) {
    if (seen.has(ref)) continue; // a tied head
    seen.add(ref);
    const values = await ref.store.readFloats(ref.name);
    const bad = values.findIndex((value) => !Number.isFinite(value));
    if (bad < 0) continue;
    const message = `${ref.store.path}: tensor ${ref.name} holds ${values[bad]} at element ${bad}`;
    throw new ReadMeError("ERR_MODEL_INVALID", message);
  }
  if (model.kind !== "read-me") return;
  const expertStores = new Set(model.weights.layers.flatMap((layer) => layer.experts.map((e) => e.gate.weight.store)));
  for (const store of expertStores) {
    if (!(store instanceof SafetensorsFile)) continue;
    checkContiguousLayers(
      store.path,
      store.names.map((name) => ({ ...store.info(name), name })),
    );
  }
}

function* tensorRefs(refs: unknown): Generator<TensorRef> {
  if (typeof refs !== "object" || refs === null) return;
  if ("store" in refs && "shape" in refs) {
    yield refs as TensorRef;
    return;
  }
  for (const inner of Object.values(refs)) yield* tensorRefs(inner);
}
