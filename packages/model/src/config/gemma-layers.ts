// Layers of Gemma 4, which differ in their heads and their FFN.

import type { LayerSizes } from "./family.ts";
import { type Fields, MOST } from "./fields.ts";

type Heads = NonNullable<LayerSizes["heads"]>;

/**
 * Reads what differs by layer in Gemma 4: layers without a window have other heads, and the last ones read the keys and
 * values of the last layer of their kind before them.
 */
export function gemmaLayers(fields: Fields, windows: readonly (number | undefined)[]): readonly LayerSizes[] {
  if (fields.raw("use_bidirectional_attention") === "all")
    fields.unsupported("use_bidirectional_attention", "supported is a model that generates");
  const numShared = fields.count("num_kv_shared_layers") ?? 0;
  const firstShared = Math.max(0, windows.length - numShared);
  const keysAreValues = fields.boolean("attention_k_eq_v", false);
  const isWide = fields.boolean("use_double_wide_mlp", false);
  const heads = headsByLayer(fields, windows, keysAreValues);
  return windows.map((window, index): LayerSizes => {
    const isFull = window === undefined;
    const own = { heads: heads[index], keysAreValues: isFull && keysAreValues };
    if (index < firstShared) return own;
    const keysOf = windows.slice(0, firstShared).findLastIndex((other) => (other === undefined) === isFull);
    if (keysOf < 0) throw fields.invalid(`\`num_kv_shared_layers\` ${numShared} leaves no layer like layer ${index}`);
    if (JSON.stringify(heads[keysOf]) !== JSON.stringify(heads[index]))
      throw fields.invalid(`layer ${index} reads the keys of layer ${keysOf}, which have other sizes`);
    return { ...own, keysOf, ffnSize: isWide ? 2 * fields.size("intermediate_size", MOST.width / 2) : undefined };
  });
}

/** Reads heads from the list of layers that newer configs have, else from the fields for layers without a window. */
function headsByLayer(fields: Fields, windows: readonly unknown[], keysAreValues: boolean): readonly Heads[] {
  const numHeads = fields.size("num_attention_heads", MOST.heads);
  const numKvHeads = fields.size("num_key_value_heads", MOST.heads);
  const headSize = fields.size("head_dim", MOST.headSize);
  const byLayer = fields.object("per_layer_config");
  const ofFull = (): Heads => ({
    numKvHeads: keysAreValues ? fields.size("num_global_key_value_heads", MOST.heads, numKvHeads) : numKvHeads,
    headSize: fields.size("global_head_dim", MOST.headSize, 512),
  });
  return windows.map((window, index) => {
    const named = byLayer?.object(`${index}`);
    const heads =
      window === undefined && !byLayer
        ? ofFull()
        : {
            numKvHeads: named?.size("num_key_value_heads", MOST.heads, numKvHeads) ?? numKvHeads,
            headSize: named?.size("head_dim", MOST.headSize, headSize) ?? headSize,
          };
    if (numHeads % heads.numKvHeads === 0 && heads.headSize % 2 === 0) return heads;
    const sizes = `${heads.numKvHeads} key/value heads of size ${heads.headSize}`;
    throw fields.invalid(`layer ${index} has ${sizes} for ${numHeads} heads that rotate in pairs`);
  });
}
