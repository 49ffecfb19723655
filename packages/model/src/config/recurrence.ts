// Recurrences in place of attention: how families spell their sizes, and which layers have them.

import { type Fields, MOST } from "./fields.ts";

/** Largest number of positions that the kernel's convolutions see. */
const MOST_TAPS = 8;

/** Recurrence in place of attention, with a state of fixed size; the kernel's description has its arithmetic. */
export interface RecurrenceConfig {
  /** A short convolution (LFM 2), the gated delta rule (Qwen 3.5), or a state space (Mamba-2). */
  readonly kind: "convolution" | "delta" | "space";
  /** Positions that the convolution sees, at most 8. */
  readonly numTaps: number;
  readonly hasConvolutionBias: boolean;
  /** Heads of queries and keys, and their size, a multiple of 4. */
  readonly numKeyHeads: number;
  readonly keySize: number;
  /** Heads of values, each with a state; a multiple of `numKeyHeads`. */
  readonly numValueHeads: number;
  readonly valueSize: number;
  /** Whether heads of values with the same keys lie `numKeyHeads` apart, as in GGUF files. @default side by side */
  readonly isTiled?: boolean | undefined;
}

/** Reading of the layers with a recurrence from a family's config. */
export interface RecurrenceFields {
  readonly kind: RecurrenceConfig["kind"];
  /** Type of such layers in `layer_types`. */
  readonly layerType: string;
  /** Metadata keys of GGUF files, behind the architecture's name, by the config's field. */
  readonly ggufKeys: Readonly<Record<string, string>>;
  /** Reads the sizes. */
  readonly read: (fields: Fields, numHeads: number) => RecurrenceConfig;
  /** Lists the types of layers where `layer_types` is absent. @default all have attention */
  readonly layerTypes?: (fields: Fields, numLayers: number) => readonly string[];
}

/** Names in `layer_types` of layers with a recurrence; Granite's newer configs have the second one, too. */
export const RECURRENT_TYPES: readonly unknown[] = ["conv", "linear_attention", "mamba"];

function taps(fields: Fields, name: string, absent: number): number {
  return fields.size(name, MOST_TAPS, absent);
}

/** Short convolutions, as wide as the hidden state (LFM 2). */
export const SHORT_CONVOLUTION: RecurrenceFields = {
  kind: "convolution",
  layerType: "conv",
  ggufKeys: { conv_L_cache: "shortconv.l_cache" },
  read: (fields, numHeads) => {
    const size = Math.floor(fields.size("hidden_size", MOST.width) / numHeads);
    const heads = { numKeyHeads: numHeads, keySize: size, numValueHeads: numHeads, valueSize: size };
    return { kind: "convolution", numTaps: taps(fields, "conv_L_cache", 3), hasConvolutionBias: false, ...heads };
  },
  layerTypes: (fields, numLayers) => {
    const withAttention = fields.list("full_attn_idxs");
    return Array.from({ length: numLayers }, (_, layer) =>
      withAttention?.includes(layer) === false ? "conv" : "full_attention",
    );
  },
};

/** The gated delta rule (Qwen3-Next, Qwen 3.5). */
export const GATED_DELTA: RecurrenceFields = {
  kind: "delta",
  layerType: "linear_attention",
  ggufKeys: {
    linear_conv_kernel_dim: "ssm.conv_kernel",
    linear_key_head_dim: "ssm.state_size",
    linear_num_key_heads: "ssm.group_count",
    linear_num_value_heads: "ssm.time_step_rank",
    linear_value_heads_size: "ssm.inner_size",
    full_attention_interval: "full_attention_interval",
  },
  read: (fields) =>
    checked(fields, "linear_num_value_heads", {
      kind: "delta",
      numTaps: taps(fields, "linear_conv_kernel_dim", 4),
      hasConvolutionBias: false,
      numKeyHeads: fields.size("linear_num_key_heads", MOST.heads, 16),
      keySize: fields.size("linear_key_head_dim", MOST.headSize, 128),
      numValueHeads: fields.size("linear_num_value_heads", MOST.heads, 32),
      valueSize: headSizeOf(fields, "linear_value_head_dim", "linear_value_heads_size", "linear_num_value_heads"),
      isTiled: fields.has("linear_value_heads_size"),
    }),
  layerTypes: (fields, numLayers) => {
    const interval = fields.size("full_attention_interval", MOST.integer, 4);
    return Array.from({ length: numLayers }, (_, layer) =>
      (layer + 1) % interval === 0 ? "full_attention" : "linear_attention",
    );
  },
};

/** The same with heads of values beside those that share their key, in GGUF files too (Qwen3-Next). */
export const GROUPED_DELTA: RecurrenceFields = {
  ...GATED_DELTA,
  read: (fields, numHeads) => ({ ...GATED_DELTA.read(fields, numHeads), isTiled: false }),
};

/** Mamba-2 (Granite 4). */
export const STATE_SPACE: RecurrenceFields = {
  layerTypes: (_fields, numLayers) => Array.from({ length: numLayers }, () => "mamba"),
  kind: "space",
  layerType: "mamba",
  ggufKeys: {
    mamba_d_conv: "ssm.conv_kernel",
    mamba_d_state: "ssm.state_size",
    mamba_n_groups: "ssm.group_count",
    mamba_n_heads: "ssm.time_step_rank",
    mamba_heads_size: "ssm.inner_size",
  },
  read: (fields) => {
    const [from, to] = fields.list("time_step_limit") ?? [0, Infinity];
    // JSON has no infinity; configs have one or a name of it.
    if (from !== 0 || (typeof to === "number" && Number.isFinite(to))) {
      fields.unsupported("time_step_limit", "supported is [0, Infinity]");
    }
    const numValueHeads = fields.size("mamba_n_heads", MOST.heads, 128);
    const inner = fields.size("mamba_expand", MOST.integer, 2) * fields.size("hidden_size", MOST.width);
    const isComputed = fields.raw("mamba_d_head") === "auto";
    return checked(fields, "mamba_n_groups", {
      kind: "space",
      numTaps: taps(fields, "mamba_d_conv", 4),
      hasConvolutionBias: fields.boolean("mamba_conv_bias", true),
      numKeyHeads: fields.size("mamba_n_groups", MOST.heads, 1),
      keySize: fields.size("mamba_d_state", MOST.headSize, 256),
      numValueHeads,
      valueSize: isComputed
        ? Math.floor(inner / numValueHeads)
        : headSizeOf(fields, "mamba_d_head", "mamba_heads_size", "mamba_n_heads"),
    });
  },
};

/** Reads the size of a head: its own field, or that of all heads together in GGUF files. */
function headSizeOf(fields: Fields, name: string, ofAll: string, count: string): number {
  if (!fields.has(ofAll)) return fields.size(name, MOST.headSize);
  const [all, numHeads] = [fields.size(ofAll, MOST.width), fields.size(count, MOST.heads)];
  if (all % numHeads === 0) return all / numHeads;
  throw fields.invalid(`\`${ofAll}\` ${all} is no ${numHeads} heads of equal size`);
}

function checked(fields: Fields, name: string, config: RecurrenceConfig): RecurrenceConfig {
  const { numKeyHeads, numValueHeads, keySize, valueSize } = config;
  if (numValueHeads % numKeyHeads !== 0) {
    throw fields.invalid(`${numValueHeads} heads of values cannot share ${numKeyHeads} heads of keys evenly`);
  }
  if (keySize % 4 !== 0) fields.unsupported(name, `supported are heads whose keys have a multiple of 4 numbers`);
  if (config.kind === "space" && numKeyHeads > 1 && ((numValueHeads / numKeyHeads) * valueSize) % 16 !== 0) {
    fields.unsupported(name, "supported are groups of a multiple of 16 numbers");
  }
  if (numValueHeads * keySize * valueSize > MOST.stateValues) {
    fields.unsupported(name, `supported are states of up to ${MOST.stateValues} numbers in a layer`);
  }
  return config;
}
