// What llama.cpp and Hugging Face call the same tensors of the llama, mistral, qwen2 and qwen3 families.

/** Names without `.weight` or `.bias`, ggml's by Hugging Face's. */
const MODEL_PARTS: ReadonlyMap<string, string> = new Map([
  ["model.embed_tokens", "token_embd"],
  ["lm_head", "output"],
  ["model.norm", "output_norm"],
]);

/** The same within a layer: after `model.layers.N.` and `blk.N.`. */
const LAYER_PARTS: ReadonlyMap<string, string> = new Map([
  ["input_layernorm", "attn_norm"],
  ["self_attn.q_proj", "attn_q"],
  ["self_attn.k_proj", "attn_k"],
  ["self_attn.v_proj", "attn_v"],
  ["self_attn.o_proj", "attn_output"],
  ["self_attn.q_norm", "attn_q_norm"],
  ["self_attn.k_norm", "attn_k_norm"],
  ["post_attention_layernorm", "ffn_norm"],
  ["mlp.gate_proj", "ffn_gate"],
  ["mlp.up_proj", "ffn_up"],
  ["mlp.down_proj", "ffn_down"],
]);

const HF_MODEL_PARTS = inverse(MODEL_PARTS);
const HF_LAYER_PARTS = inverse(LAYER_PARTS);

const GGML_NAME = /^(?:blk\.(?<layer>0|[1-9]\d*)\.)?(?<part>[^.]+)\.(?<kind>weight|bias)$/;
const HF_NAME = /^(?:model\.layers\.(?<layer>0|[1-9]\d*)\.)?(?<part>.+)\.(?<kind>weight|bias)$/;

/** @returns `model.layers.3.self_attn.q_proj.weight` for `blk.3.attn_q.weight`; a name that is not known stays as it is */
export function hfNameOf(ggmlName: string): string {
  const { layer, part = "", kind } = GGML_NAME.exec(ggmlName)?.groups ?? {};
  const hfPart = (layer === undefined ? HF_MODEL_PARTS : HF_LAYER_PARTS).get(part);
  if (hfPart === undefined) return ggmlName;
  return layer === undefined ? `${hfPart}.${kind}` : `model.layers.${layer}.${hfPart}.${kind}`;
}

/** @returns `blk.3.attn_q.weight` for `model.layers.3.self_attn.q_proj.weight`; a name that is not known stays as it is */
export function ggmlNameOf(hfName: string): string {
  const { layer, part = "", kind } = HF_NAME.exec(hfName)?.groups ?? {};
  const ggmlPart = (layer === undefined ? MODEL_PARTS : LAYER_PARTS).get(part);
  if (ggmlPart === undefined) return hfName;
  return layer === undefined ? `${ggmlPart}.${kind}` : `blk.${layer}.${ggmlPart}.${kind}`;
}

/** Which rows of a ggml tensor the llama architecture stores in another order, if any. */
export function permutedPartOf(
  ggmlName: string,
): { readonly layer: number; readonly part: "attn_q" | "attn_k" } | undefined {
  const { layer, part } = GGML_NAME.exec(ggmlName)?.groups ?? {};
  return layer !== undefined && (part === "attn_q" || part === "attn_k") ? { layer: Number(layer), part } : undefined;
}

function inverse(names: ReadonlyMap<string, string>): ReadonlyMap<string, string> {
  return new Map([...names].map(([hf, ggml]) => [ggml, hf]));
}
