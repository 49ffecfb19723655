// Names of the same tensors in llama.cpp and in Hugging Face checkpoints.

import { type NormNames, NORMS_BEFORE } from "../config/families.ts";

type Names = ReadonlyMap<string, string>;

/** Names without `.weight` or `.bias`: llama.cpp's by Hugging Face's. */
const MODEL_PARTS: Names = new Map([
  ["model.embed_tokens", "token_embd"],
  ["lm_head", "output"],
  ["model.norm", "output_norm"],
]);

/** Names within a layer, behind `model.layers.N.` and `blk.N.`. */
const LAYER_PARTS: Names = new Map([
  ["self_attn.q_proj", "attn_q"],
  ["self_attn.k_proj", "attn_k"],
  ["self_attn.v_proj", "attn_v"],
  ["self_attn.o_proj", "attn_output"],
  ["self_attn.q_norm", "attn_q_norm"],
  ["self_attn.k_norm", "attn_k_norm"],
  ["mlp.gate_proj", "ffn_gate"],
  ["mlp.up_proj", "ffn_up"],
  ["mlp.down_proj", "ffn_down"],
  ["mlp.gate", "ffn_gate_inp"],
  ["mlp.experts.gate_proj", "ffn_gate_exps"],
  ["mlp.experts.up_proj", "ffn_up_exps"],
  ["mlp.experts.down_proj", "ffn_down_exps"],
  ["mlp.experts.gate_up_proj", "ffn_gate_up_exps"],
]);

/** Names of one expert's products in files of early mixtures, in front of its index. */
const EXPERT_PARTS: Names = new Map([
  ["gate_proj", "ffn_gate"],
  ["up_proj", "ffn_up"],
  ["down_proj", "ffn_down"],
]);

/** llama.cpp's names of a layer's norms, the same in all families. */
const NORM_PARTS: ReadonlyMap<keyof NormNames, string> = new Map([
  ["attention", "attn_norm"],
  ["attentionOutput", "post_attention_norm"],
  ["ffn", "ffn_norm"],
  ["ffnOutput", "post_ffw_norm"],
]);

const GGML_NAME = /^(?:blk\.(?<layer>0|[1-9]\d*)\.)?(?<part>[^.]+)\.(?<kind>weight|bias)$/;
const GGML_EXPERT = /^blk\.(?<layer>0|[1-9]\d*)\.(?<part>[^.]+)\.(?<expert>0|[1-9]\d*)\.weight$/;
const HF_NAME = /^(?:model\.layers\.(?<layer>0|[1-9]\d*)\.)?(?<part>.+)\.(?<kind>weight|bias)$/;

/**
 * Translates a name of a GGUF file, such as `blk.3.attn_q.weight` to `model.layers.3.self_attn.q_proj.weight`. An
 * unknown name stays as it is.
 *
 * @param norms - Hugging Face's names of norms in the file's family
 */
export function hfNameOf(ggmlName: string, norms: NormNames = NORMS_BEFORE): string {
  const { layer, part = "", kind } = GGML_NAME.exec(ggmlName)?.groups ?? {};
  if (kind === undefined) return hfNameOfExpert(ggmlName);
  const hfPart = inverse(layer === undefined ? MODEL_PARTS : layerParts(norms)).get(part);
  if (hfPart === undefined) return ggmlName;
  return layer === undefined ? `${hfPart}.${kind}` : `model.layers.${layer}.${hfPart}.${kind}`;
}

/** Translates a name such as `blk.3.ffn_gate.5.weight`. */
function hfNameOfExpert(ggmlName: string): string {
  const { layer, part = "", expert } = GGML_EXPERT.exec(ggmlName)?.groups ?? {};
  const hfPart = inverse(EXPERT_PARTS).get(part);
  return hfPart === undefined ? ggmlName : `model.layers.${layer}.mlp.experts.${expert}.${hfPart}.weight`;
}

/** Translates a name in the other direction. */
export function ggmlNameOf(hfName: string, norms: NormNames = NORMS_BEFORE): string {
  const { layer, part = "", kind } = HF_NAME.exec(hfName)?.groups ?? {};
  const ggmlPart = (layer === undefined ? MODEL_PARTS : layerParts(norms)).get(part);
  if (ggmlPart === undefined) return hfName;
  return layer === undefined ? `${ggmlPart}.${kind}` : `blk.${layer}.${ggmlPart}.${kind}`;
}

/** Tells whether a tensor's rows are those of queries or keys, which some architectures order by rotary pairs. */
export function rotaryPartOf(
  ggmlName: string,
): { readonly layer: number; readonly part: "attn_q" | "attn_k" } | undefined {
  const { layer, part } = GGML_NAME.exec(ggmlName)?.groups ?? {};
  return layer !== undefined && (part === "attn_q" || part === "attn_k") ? { layer: Number(layer), part } : undefined;
}

function layerParts(norms: NormNames): Names {
  const parts = new Map(LAYER_PARTS);
  for (const [role, part] of NORM_PARTS) {
    const name = norms[role];
    if (name !== undefined) parts.set(name, part);
  }
  return parts;
}

function inverse(names: Names): Names {
  return new Map([...names].map(([hf, ggml]) => [ggml, hf]));
}
