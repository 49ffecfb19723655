// Conversion of checkpoints with recurrences, of gpt-oss and of DeepSeek V2 to GGUF files, as llama.cpp's converter makes
// them: from the folder's tensors and config, with names and orders of its own.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { SafetensorsFile } from "../../../packages/model/src/safetensors/safetensors-file.ts";
import type { GgufInputValue } from "../../../packages/model/src/gguf/encode-metadata.ts";
import { type GgufInput, writeGguf } from "./write-gguf.ts";

type Metadata = Parameters<typeof writeGguf>[2];
type Json = Readonly<Record<string, unknown>>;
type Values = readonly [shape: readonly number[], floats: Float32Array];

const num = (config: Json, name: string): number => config[name] as number;

/** Names behind `blk.N.`, by those behind `model.layers.N.`, of all families. */
const NAMES: Readonly<Record<string, string>> = {
  "operator_norm.weight": "attn_norm.weight",
  "ffn_norm.weight": "ffn_norm.weight",
  "input_layernorm.weight": "attn_norm.weight",
  "post_attention_layernorm.weight": "ffn_norm.weight",
  "self_attn.q_layernorm.weight": "attn_q_norm.weight",
  "self_attn.k_layernorm.weight": "attn_k_norm.weight",
  "self_attn.q_norm.weight": "attn_q_norm.weight",
  "self_attn.k_norm.weight": "attn_k_norm.weight",
  "self_attn.q_proj.weight": "attn_q.weight",
  "self_attn.k_proj.weight": "attn_k.weight",
  "self_attn.v_proj.weight": "attn_v.weight",
  "self_attn.o_proj.weight": "attn_output.weight",
  "self_attn.out_proj.weight": "attn_output.weight",
  "self_attn.q_a_proj.weight": "attn_q_a.weight",
  "self_attn.q_a_layernorm.weight": "attn_q_a_norm.weight",
  "self_attn.q_b_proj.weight": "attn_q_b.weight",
  "self_attn.kv_a_proj_with_mqa.weight": "attn_kv_a_mqa.weight",
  "self_attn.kv_a_layernorm.weight": "attn_kv_a_norm.weight",
  "self_attn.kv_b_proj.weight": "attn_kv_b.weight",
  "self_attn.q_proj.bias": "attn_q.bias",
  "self_attn.k_proj.bias": "attn_k.bias",
  "self_attn.v_proj.bias": "attn_v.bias",
  "self_attn.o_proj.bias": "attn_output.bias",
  "self_attn.sinks": "attn_sinks.weight",
  "mlp.router.weight": "ffn_gate_inp.weight",
  "mlp.router.bias": "ffn_gate_inp.bias",
  "mlp.experts.down_proj_bias": "ffn_down_exps.bias",
  "conv.conv.weight": "shortconv.conv.weight",
  "conv.in_proj.weight": "shortconv.in_proj.weight",
  "conv.out_proj.weight": "shortconv.out_proj.weight",
  "feed_forward.w1.weight": "ffn_gate.weight",
  "feed_forward.w3.weight": "ffn_up.weight",
  "feed_forward.w2.weight": "ffn_down.weight",
  "feed_forward.gate.weight": "ffn_gate_inp.weight",
  "feed_forward.expert_bias": "exp_probs_b.bias",
  "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
  "mlp.gate.weight": "ffn_gate_inp.weight",
  "mlp.gate_proj.weight": "ffn_gate.weight",
  "mlp.up_proj.weight": "ffn_up.weight",
  "mlp.down_proj.weight": "ffn_down.weight",
  "mlp.shared_expert.gate_proj.weight": "ffn_gate_shexp.weight",
  "mlp.shared_expert.up_proj.weight": "ffn_up_shexp.weight",
  "mlp.shared_expert.down_proj.weight": "ffn_down_shexp.weight",
  "mlp.shared_expert_gate.weight": "ffn_gate_inp_shexp.weight",
  "mlp.shared_experts.gate_proj.weight": "ffn_gate_shexp.weight",
  "mlp.shared_experts.up_proj.weight": "ffn_up_shexp.weight",
  "mlp.shared_experts.down_proj.weight": "ffn_down_shexp.weight",
  "linear_attn.in_proj_qkv.weight": "attn_qkv.weight",
  "linear_attn.in_proj_z.weight": "attn_gate.weight",
  "linear_attn.in_proj_b.weight": "ssm_beta.weight",
  "linear_attn.in_proj_a.weight": "ssm_alpha.weight",
  "linear_attn.in_proj_ba.weight": "ssm_ba.weight",
  "linear_attn.conv1d.weight": "ssm_conv1d.weight",
  "linear_attn.dt_bias": "ssm_dt.bias",
  "linear_attn.A_log": "ssm_a",
  "linear_attn.norm.weight": "ssm_norm.weight",
  "linear_attn.out_proj.weight": "ssm_out.weight",
  "mamba.in_proj.weight": "ssm_in.weight",
  "mamba.conv1d.weight": "ssm_conv1d.weight",
  "mamba.conv1d.bias": "ssm_conv1d.bias",
  "mamba.dt_bias": "ssm_dt.bias",
  "mamba.A_log": "ssm_a",
  "mamba.D": "ssm_d",
  "mamba.norm.weight": "ssm_norm.weight",
  "mamba.out_proj.weight": "ssm_out.weight",
  "block_sparse_moe.router.layer.weight": "ffn_gate_inp.weight",
  "block_sparse_moe.output_linear.weight": "ffn_down_exps.weight",
  "shared_mlp.output_linear.weight": "ffn_down_shexp.weight",
};

/** Names of a layer that predicts a further token, behind the model's last one, beside those of all layers. */
const NEXT_NAMES: Readonly<Record<string, string>> = {
  "mtp.fc.weight": "nextn.eh_proj.weight",
  "mtp.pre_fc_norm_embedding.weight": "nextn.enorm.weight",
  "mtp.pre_fc_norm_hidden.weight": "nextn.hnorm.weight",
  "mtp.norm.weight": "nextn.shared_head_norm.weight",
};

/** Names of Gemma 4's tensors that differ from others'. */
const GEMMA_NAMES: Readonly<Record<string, string>> = {
  "post_attention_layernorm.weight": "post_attention_norm.weight",
  "pre_feedforward_layernorm.weight": "ffn_norm.weight",
  "post_feedforward_layernorm.weight": "post_ffw_norm.weight",
  "per_layer_input_gate.weight": "inp_gate.weight",
  "per_layer_projection.weight": "proj.weight",
  "post_per_layer_input_norm.weight": "post_norm.weight",
  "pre_feedforward_layernorm_2.weight": "pre_ffw_norm_2.weight",
  "post_feedforward_layernorm_1.weight": "post_ffw_norm_1.weight",
  "post_feedforward_layernorm_2.weight": "post_ffw_norm_2.weight",
  "router.proj.weight": "ffn_gate_inp.weight",
  "router.scale": "ffn_gate_inp.scale",
  "router.per_expert_scale": "ffn_down_exps.scale",
  "experts.gate_up_proj": "ffn_gate_up_exps.weight",
  "experts.down_proj": "ffn_down_exps.weight",
  layer_scalar: "layer_output_scale.weight",
};

/** Finds the sizes of heads of Gemma 4's layers without a window. */
function fullHeads(config: Json): Json {
  const byLayer = (config["per_layer_config"] ?? {}) as Readonly<Record<string, Json>>;
  const { head_dim, num_key_value_heads } = config;
  return { head_dim, num_key_value_heads, ...Object.values(byLayer)[0] };
}

/** Tensors whose first halves are gates, by their two names. */
const HALVES: Readonly<Record<string, readonly [string, string]>> = {
  "block_sparse_moe.input_linear.weight": ["ffn_gate_exps.weight", "ffn_up_exps.weight"],
  "mlp.experts.gate_up_proj": ["ffn_gate_exps.weight", "ffn_up_exps.weight"],
  "shared_mlp.input_linear.weight": ["ffn_gate_shexp.weight", "ffn_up_shexp.weight"],
};

const EXPERTS: readonly (readonly [RegExp, string])[] = [
  [/^(?:feed_forward|mlp)\.experts\.\d+\.(?:w1|gate_proj)\.weight$/, "ffn_gate_exps.weight"],
  [/^(?:feed_forward|mlp)\.experts\.\d+\.(?:w3|up_proj)\.weight$/, "ffn_up_exps.weight"],
  [/^(?:feed_forward|mlp)\.experts\.\d+\.(?:w2|down_proj)\.weight$/, "ffn_down_exps.weight"],
];

/** Converts a folder's model, all tensors in float32. @param tokenizer - its metadata */
export async function writeHybridGguf(folder: string, path: string, tokenizer: Metadata = new Map()): Promise<void> {
  const config = JSON.parse(
    (await readFile(join(folder, "config.json"), "utf8")).replaceAll('{"__float__": "Infinity"}', "null"),
  ) as Json;
  const store = await SafetensorsFile.open(join(folder, "model.safetensors"));
  const made = new Map<string, Values>();
  const add = (name: string, shape: readonly number[], floats: Float32Array): void =>
    void made.set(name, [shape, floats]);
  const modelType = config["model_type"] as string;
  const isQwen = /^qwen3_(?:5|next)/.test(modelType);
  const numLayers = num(config, "num_hidden_layers");
  for (const stored of store.names) {
    const { shape } = store.info(stored);
    const floats = await store.readFloats(stored);
    const ofNext = NEXT_NAMES[stored];
    if (ofNext !== undefined) {
      add(`blk.${numLayers}.${ofNext}`, ...changed(stored, [shape, floats], config));
      continue;
    }
    const name = stored.replace("mtp.layers.0.", `model.layers.${numLayers}.`);
    const [, layer, part = ""] = /^model\.layers\.(\d+)\.(.+)$/.exec(name) ?? [];
    if (layer === undefined) {
      const ofModel: Readonly<Record<string, string>> = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.embedding_norm.weight": "token_embd_norm.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
        "model.embed_tokens_per_layer.weight": "per_layer_token_embd.weight",
        "model.per_layer_model_projection.weight": "per_layer_model_proj.weight",
        "model.per_layer_projection_norm.weight": "per_layer_proj_norm.weight",
      };
      add(ofModel[name]!, shape, isQwen && name === "model.norm.weight" ? floats.map((x) => x + 1) : floats);
      continue;
    }
    const block = `blk.${layer}.`;
    if (modelType === "gpt_oss" && part.startsWith("mlp.experts.")) {
      for (const [own, values] of expertsOf(part, [shape, floats])) add(block + own, ...values);
      continue;
    }
    if (part === "self_attn.kv_b_proj.weight" && hasStacks(config)) {
      for (const [own, values] of stacksOf(floats, config)) add(block + own, ...values);
      continue;
    }
    if (part === "linear_attn.in_proj_qkvz.weight") {
      for (const [own, values] of productsOf([shape, floats], config)) add(block + own, ...values);
      continue;
    }
    const halves = HALVES[part];
    const expert = EXPERTS.find(([pattern]) => pattern.test(part))?.[1];
    if (expert !== undefined) {
      const [before, rows] = made.get(block + expert) ?? [[0, ...shape], new Float32Array()];
      add(block + expert, [(before[0] ?? 0) + 1, ...shape], Float32Array.from([...rows, ...floats]));
    } else if (halves) {
      const [stack, numRows, columns] = shape.length === 3 ? shape : [1, ...shape];
      const size = (numRows! / 2) * columns!;
      for (const [half, own] of halves.entries()) {
        const parts = Array.from({ length: stack! }, (_, at) =>
          Array.from(floats.subarray((2 * at + half) * size, (2 * at + half + 1) * size)),
        );
        add(
          block + own,
          [...(shape.length === 3 ? [stack!] : []), numRows! / 2, columns!],
          Float32Array.from(parts.flat()),
        );
      }
    } else if (part === "mlp.experts.down_proj") add(`${block}ffn_down_exps.weight`, shape, floats);
    else {
      const isPost = isQwen || modelType === "gpt_oss";
      const isPostNamed = isPost && part === "post_attention_layernorm.weight";
      const ofGemma = modelType === "gemma4_text" ? GEMMA_NAMES[part] : undefined;
      const own = isPostNamed ? "post_attention_norm.weight" : (ofGemma ?? NAMES[part]);
      if (own === undefined) throw new Error(`Expected a name for ${name}`);
      add(block + own, ...changed(part, [shape, floats], config));
    }
  }
  if (modelType === "gemma4_text") {
    const size = num(fullHeads(config), "head_dim") / 2;
    const share = num((config["rope_parameters"] as { full_attention: Json }).full_attention, "partial_rotary_factor");
    add(
      "rope_freqs.weight",
      [size],
      Float32Array.from({ length: size }, (_, pair) => (pair < Math.floor(share * size) ? 1 : 1e30)),
    );
  }
  await store.close();
  const tensors = Array.from(made, ([name, [shape, floats]]): GgufInput => ({
    name,
    type: "F32",
    shape,
    floats: async () => floats,
  }));
  await writeGguf(
    path,
    tensors,
    new Map([...metadataOf(store.has("mtp.fc.weight") ? withNext(config) : config), ...tokenizer]),
  );
}

/** Takes the products of Qwen3-Next apart, whose rows are those of one head of keys after another. */
function productsOf([[rows = 0, columns = 1], floats]: Values, config: Json): readonly (readonly [string, Values])[] {
  const keyHeads = num(config, "linear_num_key_heads");
  const shared = num(config, "linear_num_value_heads") / keyHeads;
  const [key, value] = [num(config, "linear_key_head_dim"), shared * num(config, "linear_value_head_dim")];
  const part = (from: number, size: number): number[] =>
    Array.from({ length: keyHeads }, (_, head) => {
      const first = (head * rows) / keyHeads + from;
      return Array.from(floats.subarray(first * columns, (first + size) * columns));
    }).flat();
  const mixed = [...part(0, key), ...part(key, key), ...part(2 * key, value)];
  return [
    ["attn_qkv.weight", [[mixed.length / columns, columns], Float32Array.from(mixed)]],
    ["attn_gate.weight", [[keyHeads * value, columns], Float32Array.from(part(2 * key + value, value))]],
  ];
}

/** Whether the file has stacks of heads' products, as newer ones. Older ones have one product of all heads. */
function hasStacks(config: Json): boolean {
  return typeof config["q_lora_rank"] === "number";
}

/** Takes the product of all heads' keys and values apart; keys are turned. */
function stacksOf(floats: Float32Array, config: Json): readonly (readonly [string, Values])[] {
  const names = ["num_attention_heads", "kv_lora_rank", "qk_nope_head_dim", "v_head_dim"];
  const [numHeads = 0, latent = 0, plain = 0, value = 0] = names.map((name) => num(config, name));
  const at = (head: number, row: number, column: number): number =>
    floats[(head * (plain + value) + row) * latent + column]!;
  const stack = (rows: number, columns: number, pick: typeof at): Values => {
    const size = rows * columns;
    const ofHead = (index: number): number =>
      pick(Math.floor(index / size), Math.floor((index % size) / columns), index % columns);
    return [[numHeads, rows, columns], Float32Array.from({ length: numHeads * size }, (_, index) => ofHead(index))];
  };
  return [
    ["attn_k_b.weight", stack(latent, plain, (head, row, column) => at(head, column, row))],
    ["attn_v_b.weight", stack(value, latent, (head, row, column) => at(head, plain + row, column))],
  ];
}

/** Counts a layer that predicts a further token among the model's layers, as files do. */
function withNext(config: Json): Json {
  const types = [...(config["layer_types"] as readonly string[]), "full_attention"];
  return { ...config, layer_types: types, num_hidden_layers: types.length, mtp_num_hidden_layers: 1 };
}

/** Turns the matrices of gpt-oss' experts, and takes gates and up apart, which alternate. */
function expertsOf(part: string, [shape, floats]: Values): readonly (readonly [string, Values])[] {
  const [numExperts = 0, inner = 0, outer = 1] = shape;
  const isBias = part.endsWith("_bias");
  const turned = (expert: number, row: number): number[] =>
    isBias
      ? [floats[expert * inner + row]!]
      : Array.from({ length: inner }, (_, column) => floats[(expert * inner + column) * outer + row]!);
  const numRows = isBias ? inner : outer;
  const rowsFrom = (first: number, step: number): Values => {
    const count = numRows / step;
    const rows = Array.from({ length: numExperts }, (_, expert) =>
      Array.from({ length: count }, (_row, row) => turned(expert, first + step * row)),
    );
    return [[numExperts, count, ...(isBias ? [] : [inner])], Float32Array.from(rows.flat(2))];
  };
  const ending = isBias ? "bias" : "weight";
  if (part.includes("down_proj")) return [[`ffn_down_exps.${ending}`, rowsFrom(0, 1)]];
  return [
    [`ffn_gate_exps.${ending}`, rowsFrom(0, 2)],
    [`ffn_up_exps.${ending}`, rowsFrom(1, 2)],
  ];
}

/** Changes what the converter changes: orders, signs, offsets and shapes. */
function changed(part: string, [shape, floats]: Values, config: Json): Values {
  const [rows = 0, columns = 1] = shape;
  const isQwen = part.startsWith("linear_attn") || /^qwen3_(?:5|next)/.test(config["model_type"] as string);
  if (part.endsWith("A_log"))
    return tiled(part, [part.startsWith("mamba") ? [rows, 1] : shape, floats.map((x) => -Math.exp(x))], config);
  if (part === "mamba.D") return [[rows, 1], floats];
  if (part === "mamba.norm.weight")
    return [[num(config, "mamba_n_groups"), rows / num(config, "mamba_n_groups")], floats];
  if (part.endsWith("conv1d.weight") || part === "conv.conv.weight")
    return tiled(part, [[rows, shape[2]!], floats], config);
  if (part.endsWith("shared_expert_gate.weight")) return [[columns], floats];
  if (isQwen && /norm(_\w+)?\.weight$/.test(part) && part !== "linear_attn.norm.weight")
    return [shape, floats.map((x) => x + 1)];
  if (part.startsWith("linear_attn.")) return tiled(part, [shape, floats], config);
  if (config["model_type"] === "granitemoehybrid" && /self_attn\.[qk]_proj/.test(part))
    return paired([shape, floats], config);
  return [shape, floats];
}

/** Lists the sizes of latent attention. The key's own are where older files have those of heads. */
function latentSizes(config: Json): Readonly<Record<string, number | undefined>> {
  const names = ["kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"];
  const [latent = 0, rotated = 0, plain = 0, value = 0] = names.map((name) => num(config, name));
  const isNew = hasStacks(config);
  return {
    "attention.q_lora_rank": (config["q_lora_rank"] ?? undefined) as number | undefined,
    "attention.kv_lora_rank": latent,
    "attention.key_length": isNew ? latent + rotated : plain + rotated,
    "attention.value_length": isNew ? latent : value,
    "attention.key_length_mla": isNew ? plain + rotated : undefined,
    "attention.value_length_mla": isNew ? value : undefined,
    expert_shared_count: num(config, "n_shared_experts"),
  };
}

/** Lists what files of Gemma 4 have by layer. */
function listsOfGemma(config: Json, types: readonly string[]): readonly (readonly [string, GgufInputValue])[] {
  const size = num(config, "intermediate_size");
  const firstShared = types.length - num(config, "num_kv_shared_layers");
  const isWide = (layer: number): boolean => config["use_double_wide_mlp"] === true && layer >= firstShared;
  const heads = types.map((type) => num(type === "full_attention" ? fullHeads(config) : config, "num_key_value_heads"));
  return [
    [
      "attention.sliding_window_pattern",
      { type: "array", of: "bool", value: types.map((type) => type !== "full_attention") },
    ],
    [
      "feed_forward_length",
      { type: "array", of: "int32", value: types.map((_, layer) => (isWide(layer) ? 2 : 1) * size) },
    ],
    ["attention.head_count_kv", { type: "array", of: "int32", value: heads }],
  ];
}

/** Puts heads of values that share one of keys apart: the first of each, then the second. */
function tiled(part: string, [shape, floats]: Values, config: Json): Values {
  const isTiled = part.startsWith("linear_attn.") && config["model_type"] !== "qwen3_next";
  if (!isTiled || part === "linear_attn.norm.weight") return [shape, floats];
  const [keyHeads, heads] = [num(config, "linear_num_key_heads"), num(config, "linear_num_value_heads")];
  const [keySize, size] = [num(config, "linear_key_head_dim"), num(config, "linear_value_head_dim")];
  const order = Array.from(
    { length: heads },
    (_, place) => (place % keyHeads) * (heads / keyHeads) + Math.floor(place / keyHeads),
  );
  const isOutput = part === "linear_attn.out_proj.weight";
  const [rows = 0, columns = 1] = shape;
  const ofValues = (first: number, width: number, length: number): number[] =>
    Array.from({ length }, (_, at) =>
      at < first ? at : first + order[Math.floor((at - first) / width)]! * width + ((at - first) % width),
    );
  const isByHead = /in_proj_[ab]|A_log|dt_bias/.test(part);
  const first = /in_proj_qkv|conv1d/.test(part) ? 2 * keyHeads * keySize : 0;
  const rowOrder = isOutput ? undefined : ofValues(first, isByHead ? 1 : size, rows);
  const columnOrder = isOutput ? ofValues(0, size, columns) : undefined;
  const at = (index: number): number => {
    const [row, column] = [Math.floor(index / columns), index % columns];
    return (rowOrder?.[row] ?? row) * columns + (columnOrder?.[column] ?? column);
  };
  return [shape, floats.map((_, index) => floats[at(index)]!)];
}

/** Orders rows of heads by rotary pairs. */
function paired([shape, floats]: Values, config: Json): Values {
  const [, columns = 1] = shape;
  const size = num(config, "hidden_size") / num(config, "num_attention_heads");
  return [
    shape,
    floats.map((_, index) => {
      const [row, column] = [Math.floor(index / columns), index % columns];
      const [head, place] = [Math.floor(row / size), row % size];
      return floats[(head * size + (place % 2) * (size / 2) + Math.floor(place / 2)) * columns + column]!;
    }),
  ];
}

function metadataOf(config: Json): Metadata {
  const modelType = config["model_type"] as string;
  const architecture = {
    lfm2: "lfm2",
    lfm2_moe: "lfm2moe",
    gpt_oss: "gpt-oss",
    gemma4_text: "gemma4",
    deepseek_v2: "deepseek2",
    deepseek_v3: "deepseek2",
    glm4_moe_lite: "deepseek2",
    granitemoehybrid: "granitehybrid",
    qwen3_5_text: "qwen35",
    qwen3_5_moe_text: "qwen35moe",
    qwen3_next: "qwen3next",
  }[modelType]!;
  const isLatent = architecture === "deepseek2";
  const hasSigmoids = modelType === "lfm2_moe" || (isLatent && modelType !== "deepseek_v2");
  if (!isLatent && (config["routed_scaling_factor"] ?? 1) !== 1)
    throw new RangeError("GGUF files have no factor of experts");
  const types = (config["layer_types"] ?? []) as readonly string[];
  const keyHeads = types.map((type) => (type === "full_attention" ? num(config, "num_key_value_heads") : 0));
  const isGemma = modelType === "gemma4_text";
  const ropes = config["rope_parameters"] as Json;
  const rope = isGemma ? (ropes["full_attention"] as Json) : ropes;
  const integers: Record<string, number | undefined> = {
    block_count: num(config, "num_hidden_layers"),
    nextn_predict_layers: config["mtp_num_hidden_layers"] as number | undefined,
    context_length: num(config, "max_position_embeddings"),
    embedding_length: num(config, "hidden_size"),
    feed_forward_length: num(config, "intermediate_size"),
    "attention.head_count": num(config, "num_attention_heads"),
    "attention.key_length": config["head_dim"] as number | undefined,
    "attention.value_length": config["head_dim"] as number | undefined,
    ...(isGemma && {
      "attention.key_length": num(fullHeads(config), "head_dim"),
      feed_forward_length: undefined,
      "attention.key_length_swa": num(config, "head_dim"),
      "attention.value_length": num(fullHeads(config), "head_dim"),
      "attention.value_length_swa": num(config, "head_dim"),
      "attention.shared_kv_layers": num(config, "num_kv_shared_layers"),
      embedding_length_per_layer_input: num(config, "hidden_size_per_layer_input"),
      "rope.dimension_count_swa": num(config, "head_dim"),
    }),
    "shortconv.l_cache": config["conv_L_cache"] as number | undefined,
    expert_count: (config["num_experts"] ?? config["num_local_experts"] ?? config["n_routed_experts"]) as
      | number
      | undefined,
    expert_used_count: (config["num_experts_per_tok"] ?? config["top_k_experts"] ?? undefined) as number | undefined,
    expert_feed_forward_length: (config["moe_intermediate_size"] ??
      (/granite|gpt/.test(modelType) ? config["intermediate_size"] : undefined)) as number | undefined,
    "attention.sliding_window": config["sliding_window"] as number | undefined,
    "rope.scaling.original_context_length": rope["original_max_position_embeddings"] as number | undefined,
    expert_shared_feed_forward_length: (config["shared_expert_intermediate_size"] ??
      config["shared_intermediate_size"]) as number | undefined,
    leading_dense_block_count: (config["num_dense_layers"] ??
      config["first_k_dense_replace"] ??
      (isLatent ? 1 : undefined)) as number | undefined,
    ...(isLatent && latentSizes(config)),
    expert_gating_func: hasSigmoids ? 2 : undefined,
    full_attention_interval: modelType.startsWith("qwen") ? types.indexOf("full_attention") + 1 : undefined,
    "ssm.conv_kernel": (config["linear_conv_kernel_dim"] ?? config["mamba_d_conv"]) as number | undefined,
    "ssm.state_size": (config["linear_key_head_dim"] ?? config["mamba_d_state"]) as number | undefined,
    "ssm.group_count": (config["linear_num_key_heads"] ?? config["mamba_n_groups"]) as number | undefined,
    "ssm.time_step_rank": (config["linear_num_value_heads"] ?? config["mamba_n_heads"]) as number | undefined,
    "ssm.inner_size": modelType.startsWith("qwen")
      ? num(config, "linear_num_value_heads") * num(config, "linear_value_head_dim")
      : modelType === "granitemoehybrid"
        ? num(config, "mamba_n_heads") * num(config, "mamba_d_head")
        : undefined,
  };
  const floats: Record<string, number | undefined> = {
    "rope.freq_base": rope["rope_theta"] as number,
    "rope.freq_base_swa": isGemma ? num(ropes["sliding_attention"] as Json, "rope_theta") : undefined,
    final_logit_softcapping: (config["final_logit_softcapping"] ?? undefined) as number | undefined,
    "rope.scaling.factor": rope["factor"] as number | undefined,
    "attention.layer_norm_rms_epsilon": (config["norm_eps"] ?? config["rms_norm_eps"]) as number,
    embedding_scale: config["embedding_multiplier"] as number | undefined,
    residual_scale: config["residual_multiplier"] as number | undefined,
    "attention.scale": config["attention_multiplier"] as number | undefined,
    logit_scale: config["logits_scaling"] as number | undefined,
    "rope.scaling.yarn_log_multiplier": rope["mscale_all_dim"] ? 0.1 * num(rope, "mscale_all_dim") : undefined,
    "rope.scaling.yarn_beta_fast": isLatent ? (rope["beta_fast"] as number | undefined) : undefined,
    expert_weights_scale: isLatent ? num(config, "routed_scaling_factor") : undefined,
  };
  const share = (rope["partial_rotary_factor"] as number | undefined) ?? 1;
  const headSize =
    (config["head_dim"] as number | undefined) ?? num(config, "hidden_size") / num(config, "num_attention_heads");
  const ofFull = isGemma ? num(fullHeads(config), "head_dim") : share * headSize;
  integers["rope.dimension_count"] = isLatent ? num(config, "qk_rope_head_dim") : ofFull;
  const named = (key: string): string => `${architecture}.${key}`;
  const entries = (numbers: Readonly<Record<string, number | undefined>>, type: "uint32" | "float32") =>
    Object.entries(numbers).flatMap(([key, value]) =>
      value === undefined ? [] : [[named(key), { type, value }] as const],
    );
  const heads =
    isLatent || /qwen|gpt|gemma/.test(modelType)
      ? { type: "uint32" as const, value: isLatent && hasStacks(config) ? 1 : num(config, "num_key_value_heads") }
      : { type: "array" as const, of: "int32" as const, value: keyHeads };
  return new Map([
    ["general.architecture", { type: "string", value: architecture }],
    ["general.quantization_version", { type: "uint32", value: 2 }],
    [named("attention.head_count_kv"), heads],
    ...(rope["rope_type"] === "yarn" ? [[named("rope.scaling.type"), { type: "string", value: "yarn" }] as const] : []),
    ...(isLatent ? [[named("expert_weights_norm"), { type: "bool", value: !!config["norm_topk_prob"] }] as const] : []),
    ...(modelType === "granitemoehybrid"
      ? [[named("rope.scaling.finetuned"), { type: "bool", value: false }] as const]
      : []),
    ...entries(integers, "uint32"),
    ...entries(floats, "float32"),
    ...(isGemma ? listsOfGemma(config, types).map(([key, list]) => [named(key), list] as const) : []),
  ] as readonly (readonly [string, GgufInputValue])[]);
}
