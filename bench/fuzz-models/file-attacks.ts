// Hostile configs and headers: sizes that no model has, and lists that only cost memory.

import { array, entry, handMadeGguf, text, textEntry } from "../../test/support/gguf-bytes.ts";
import { safetensorsBytes } from "../../test/support/safetensors-bytes.ts";
import type { Chance } from "../fuzz/chance.ts";

type Json = Record<string, unknown>;

const SIZES = [0, -1, 0.5, 3, 7, 4096, 65_536, 1e8, 2e9, 2 ** 31, 2 ** 53, 1e300, "4", null, [4], {}, true] as const;

/** Fields of config.json, generation_config.json, and of the sections for experts and routers. */
const FIELDS: readonly string[] =
  `vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim
  max_position_embeddings sliding_window max_window_layers num_local_experts num_experts num_experts_per_tok
  moe_intermediate_size decoder_sparse_step rms_norm_eps rope_theta partial_rotary_factor bos_token_id
  eos_token_id num_labels no_rope_layer_interval sliding_window_pattern query_pre_attn_scalar
  original_max_position_embeddings max_new_tokens top_k temperature N_cluster embedding_dim inter_dim n_head
  n_layer version embedding_size inner_size num_heads num_layers context_tokens normalizer expert_size
  shared_size true_token_id r lora_alpha conv_L_cache linear_conv_kernel_dim linear_num_key_heads
  linear_num_value_heads linear_key_head_dim linear_value_head_dim full_attention_interval mamba_n_heads mamba_d_head
  mamba_d_state mamba_n_groups mamba_d_conv mamba_expand num_dense_layers routed_scaling_factor`.split(/\s+/);

const HYBRIDS = ["lfm2", "lfm2_moe", "qwen3_5_text", "qwen3_next", "granitemoehybrid"];
const TYPES = [
  "llama",
  "mistral",
  "qwen2",
  "qwen3",
  "gemma3_text",
  "gemma3",
  "olmo2",
  "granite",
  "phi3",
  "smollm3",
  ...HYBRIDS,
];
const MIXTURES = ["mixtral", "qwen3_moe", "olmoe", "granitemoe", "deepseek_v3"];

const LISTS: readonly ((chance: Chance) => Json)[] = [
  (chance) => ({
    layer_types: Array(chance.pick([2, 4096, 200_000])).fill(
      chance.pick(["full_attention", "sliding_attention", "conv", "mamba", 1]),
    ),
  }),
  () => ({ mlp_only_layers: Array.from({ length: 400_000 }, (_, at) => at), num_hidden_layers: 4096 }),
  () => ({ no_rope_layers: Array(400_000).fill(1) }),
  (chance) => ({
    rope_scaling: { rope_type: "longrope", long_factor: Array(chance.pick([4, 100_000])).fill(1), short_factor: [1] },
  }),
  (chance) => ({
    rope_scaling: { rope_type: chance.pick(["linear", "llama3", "yarn", "dynamic"]), factor: chance.pick(SIZES) },
  }),
  () => ({ eos_token_id: Array.from({ length: 400_000 }, (_, at) => at) }),
  () => ({ architectures: Array(200_000).fill("LlamaForCausalLM") }),
  () => ({ id2label: Object.fromEntries(Array.from({ length: 100_000 }, (_, at) => [at, "x"])) }),
  () => ({ readme: { version: 1, num_experts: 65_536, expert_size: Array(200_000).fill(1) } }),
  () => ({
    readme: {
      version: 1,
      num_experts: 65_536,
      expert_size: 8,
      router: { embedding_size: 262_144, inner_size: 262_144, num_heads: 2, num_layers: 4096 },
    },
  }),
  () => ({ experts: Array.from({ length: 65_535 }, (_, at) => ({ name: `e${at}`, folder: "../../../../etc" })) }),
  () => ({ experts: Array.from({ length: 200_000 }, () => ({ name: "x", folder: "x" })) }),
  () => ({
    weight_map: Object.fromEntries(Array.from({ length: 60_000 }, (_, at) => [`t${at}`, `${at}.safetensors`])),
  }),
  () => ({ weight_map: { "model.norm.weight": "/etc/passwd", "lm_head.weight": "../dense/model.safetensors" } }),
  (chance) => ({ model_type: chance.pick([...TYPES, ...MIXTURES]) }),
  (chance) => ({
    model_type: "gemma3",
    text_config: chance.pick([null, [], {}, { model_type: "gemma3", text_config: {} }]),
  }),
];

/** Makes an object with hostile fields; some are in the sections of the object. */
export function hostileFields(json: Json, chance: Chance): Json {
  const changed: Json = { ...json };
  if (chance.happens(0.15)) Object.assign(changed, chance.pick(LISTS)(chance));
  for (let count = chance.pick([1, 1, 2, 3]); count > 0; count--) {
    const own = FIELDS.filter((name) => Object.hasOwn(changed, name));
    const name = chance.happens(0.7) && own.length > 0 ? chance.pick(own) : chance.pick(FIELDS);
    changed[name] = chance.pick(SIZES);
  }
  for (const [name, value] of Object.entries(changed)) {
    const isSection = typeof value === "object" && value !== null && !Array.isArray(value);
    if (isSection && chance.happens(0.5)) changed[name] = hostileFields(value as Json, chance);
  }
  return changed;
}

/** JSON files that cost far more memory than they have bytes. */
export function heavyJson(chance: Chance): string {
  return chance.pick([
    () => `{"a":[${"[],".repeat(1_300_000)}0]}`,
    () => `{"a":${"[".repeat(1_500_000)}`,
    () => `{"a":${"[".repeat(90)}${"]".repeat(90)}}`,
    () => `{${'"a":{},'.repeat(500_000)}"b":0}`,
    () => `{"a":"${"\\u0061".repeat(600_000)}"}`,
    () => `${" ".repeat(4_000_000)}{}`,
    () => `{${Array.from({ length: 250_000 }, (_, at) => `"${at}":0`).join()}}`,
  ])();
}

const strings = (count: number): Buffer => array(8, count, Buffer.alloc(8 * count));

function ggufOf(entries: readonly Buffer[]): Buffer {
  const all = Buffer.concat([textEntry("general.architecture", "llama"), ...entries]);
  return handMadeGguf({ entries: [all], numEntries: entries.length + 1 }).bytes;
}

/** GGUF files whose metadata only costs time and memory. */
export function heavyGguf(chance: Chance): Buffer {
  return chance.pick([
    () => ggufOf([entry("x", 9, array(chance.pick([10, 11]), 8_000_000, Buffer.alloc(64_000_000, 1)))]),
    () => ggufOf([entry("x", 9, array(10, 9_000_000, Buffer.alloc(72_000_000)))]),
    () => ggufOf([entry("llama.block_count", 9, array(0, 60_000_000, Buffer.alloc(60_000_000)))]),
    () => ggufOf([entry("tokenizer.ggml.tokens", 9, strings(2_000_000))]),
    () => ggufOf([entry("tokenizer.ggml.tokens", 9, strings(4_000_000))]),
    () => ggufOf([entry("x", 9, array(9, 520_000, Buffer.alloc(12 * 520_000)))]),
    () => ggufOf([entry("x", 9, array(7, 2_000_000, Buffer.alloc(2_000_000)))]),
    () => ggufOf(Array.from({ length: 60_000 }, (_, at) => textEntry(`k${at}`, "x".repeat(900)))),
    () =>
      handMadeGguf({
        entries: [textEntry("general.architecture", "llama")],
        tensors: Array.from({ length: 65_000 }, (_, at) => ({
          name: `blk.${at}.attn_q.weight`,
          dimensions: [0],
          type: 0,
        })),
      }).bytes,
    () => Buffer.concat([ggufOf([]), Buffer.alloc(1000), text("x".repeat(1_000_000))]),
  ])();
}

function emptyTensors(count: number, name: (at: number) => string): string {
  const entries = Array.from(
    { length: count },
    (_, at) => `"${name(at)}":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}`,
  );
  return `{${entries.join()}}`;
}

/** Safetensors files whose header only costs time and memory. */
export function heavySafetensors(chance: Chance): Uint8Array {
  return chance.pick([
    () =>
      safetensorsBytes(
        emptyTensors(300_000, (at) => `base_model.model.model.layers.${at}.self_attn.q_proj.lora_A.weight`),
      ),
    () =>
      safetensorsBytes(
        emptyTensors(150_000, (at) => `base_model.model.model.layers.0.self_attn.q_proj.${at}.lora_A.weight`),
      ),
    () => safetensorsBytes(emptyTensors(150_000, (at) => `layers.${at}.mlp.up_proj.weight`)),
    () => safetensorsBytes(`{"__metadata__":{${Array.from({ length: 260_000 }, (_, at) => `"${at}":""`).join()}}}`),
    () => safetensorsBytes(`{"a":{"x":[${"0,".repeat(2_000_000)}0]}}`),
    () => safetensorsBytes(`{"a":{"x":${"[".repeat(1_000_000)}`),
    () => safetensorsBytes(`{"${"a".repeat(30_000_000)}":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}`),
    () => safetensorsBytes(" ".repeat(33_000_000)),
  ])();
}
