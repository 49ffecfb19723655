// The tensors of the model of text in a checkpoint of more, or without a head, under a language model's names.

import { quoted, unsupported } from "../files/errors.ts";
import type { TensorStore } from "../tensor-store.ts";
import { TensorParts } from "./tensor-parts.ts";

/** Beginnings of names and what they are in a checkpoint of text: of transformers from 4.52 on, and before. */
const PREFIXES: readonly (readonly [string, string])[] = [
  ["model.language_model.", "model."],
  ["language_model.model.", "model."],
  ["language_model.lm_head.", "lm_head."],
  // Checkpoints of the model without its head.
  ["embed_tokens.", "model.embed_tokens."],
  ["layers.", "model.layers."],
  ["norm.", "model.norm."],
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
      `tensor ${quoted(ofImages)} is of an image tower, which is not supported; save the text part`,
    );
  }
  const parts = store.names.flatMap((of) => (renamed(of) === of ? [] : [[renamed(of), { of }] as const]));
  return parts.length > 0 ? new TensorParts(store, new Map(parts)) : store;
}

function renamed(name: string): string {
  const [from, to] = PREFIXES.find(([prefix]) => name.startsWith(prefix)) ?? ["", ""];
  return to + name.slice(from.length);
}
