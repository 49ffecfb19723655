// Conversion of an encoder to a GGUF file, as llama.cpp's converter makes it. Names are a table of the tests' own.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { SafetensorsFile } from "@readme-moe/model";
import { type GgufInput, type OutputType, writeGguf } from "./write-gguf.ts";

/** Endings of llama.cpp's names, by patterns of Hugging Face's: `TENSOR_NAMES` and the maps of its package `gguf`. */
const NAMES: readonly (readonly [pattern: RegExp, name: string])[] = [
  [/^embeddings\.(?:word|tok)_embeddings$/, "token_embd"],
  [/^embeddings\.position_embeddings$/, "position_embd"],
  [/^embeddings\.token_type_embeddings$/, "token_types"],
  [/^(?:embeddings\.(?:LayerNorm|norm)|emb_ln)$/, "token_embd_norm"],
  [/^final_norm$/, "output_norm"],
  [/attention\.self\.query$/, "attn_q"],
  [/attention\.self\.key$/, "attn_k"],
  [/attention\.self\.value$/, "attn_v"],
  [/\.attn\.Wqkv$/, "attn_qkv"],
  [/(?:attention\.output\.dense|\.attn\.(?:out_proj|Wo))$/, "attn_output"],
  [/(?:attention\.output\.LayerNorm|\.norm1)$/, "attn_output_norm"],
  [/\.attn_norm$/, "attn_norm"],
  [/\.mlp_norm$/, "ffn_norm"],
  [/\.mlp\.fc12$/, "ffn_gate"],
  [/(?:intermediate\.dense|\.mlp\.(?:fc11|Wi))$/, "ffn_up"],
  [/(?:\d\.output\.dense|\.mlp\.(?:fc2|Wo))$/, "ffn_down"],
  [/(?:\d\.output\.LayerNorm|\.norm2)$/, "layer_output_norm"],
  [/^(?:classifier|head)\.dense$/, "cls"],
  [/^head\.norm$/, "cls.norm"],
  [/^classifier(?:\.out_proj)?$/, "cls.output"],
];

const ARCHITECTURES: Readonly<Record<string, string>> = {
  bert: "bert",
  "xlm-roberta": "bert",
  nomic_bert: "nomic-bert",
  modernbert: "modern-bert",
};

const CONTROL = 3;
const NORMAL = 1;

interface Config {
  readonly model_type: string;
  readonly hidden_size: number;
  readonly intermediate_size: number;
  readonly num_hidden_layers: number;
  readonly num_attention_heads: number;
  readonly max_position_embeddings: number;
  readonly pad_token_id: number;
  readonly layer_norm_eps?: number;
  readonly norm_eps?: number;
  readonly local_attention?: number;
  readonly rope_parameters?: {
    readonly rope_theta?: number;
    readonly full_attention?: { readonly rope_theta: number };
    readonly sliding_attention?: { readonly rope_theta: number };
  };
}

/**
 * Writes a GGUF file of an encoder's folder.
 *
 * @param matrixType - of matrices whose rows are whole blocks
 * @param pooling - value of `pooling_type`: 1 for the mean, 2 for the first token, 4 for a classifier
 */
export async function writeEncoderGguf(
  folder: string,
  path: string,
  matrixType: OutputType,
  pooling: number,
): Promise<void> {
  const readJson = async (name: string) => JSON.parse(await readFile(join(folder, name), "utf8"));
  const config = (await readJson("config.json")) as Config;
  const { model } = (await readJson("tokenizer.json")) as { model: { vocab: Record<string, number> } };
  const store = await SafetensorsFile.open(join(folder, "model.safetensors"));
  try {
    const skipped = config.model_type === "xlm-roberta" ? config.pad_token_id + 1 : 0;
    const tensors = store.names.flatMap((name): readonly GgufInput[] => {
      const { shape } = store.info(name);
      const ggmlName = ggmlNameOf(name.replace(/^(?:bert|roberta|model)\./, ""));
      if (ggmlName === undefined) return [];
      if (ggmlName.startsWith("position")) {
        // The converter cuts positions that no token has.
        const [numRows = 0, width = 0] = shape;
        const floats = async () => (await store.readFloats(name)).subarray(skipped * width);
        return [{ name: ggmlName, type: "F32", shape: [numRows - skipped, width], floats }];
      }
      const isMatrix = shape.length === 2 && !ggmlName.startsWith("t");
      const type = isMatrix ? matrixType : "F32";
      return [{ name: ggmlName, type, shape, floats: () => store.readFloats(name) }];
    });
    await writeGguf(path, tensors, new Map([...hyperparameters(config, pooling, skipped), ...vocabulary(model.vocab)]));
  } finally {
    await store.close();
  }
}

function ggmlNameOf(name: string): string | undefined {
  const [, module = "", kind = ""] = /^(.*)\.(weight|bias)$/.exec(name) ?? [];
  const found = NAMES.find(([pattern]) => pattern.test(module));
  if (!found) return undefined;
  const layer = /layers?\.(\d+)\./.exec(module)?.[1];
  return `${layer === undefined ? "" : `blk.${layer}.`}${found[1]}.${kind}`;
}

type Metadata = Parameters<typeof writeGguf>[2];
type Entry = readonly [key: string, value: Metadata extends ReadonlyMap<string, infer Value> ? Value : never];

function hyperparameters(config: Config, pooling: number, skipped: number): readonly Entry[] {
  const architecture = ARCHITECTURES[config.model_type] ?? "";
  const { rope_parameters: rope, local_attention: window } = config;
  const number = (type: "uint32" | "float32", name: string, value: number | undefined): readonly Entry[] =>
    value === undefined ? [] : [[`${architecture}.${name}`, { type, value }]];
  return [
    ["general.architecture", { type: "string", value: architecture }],
    ...number("uint32", "block_count", config.num_hidden_layers),
    ...number("uint32", "context_length", config.max_position_embeddings - skipped),
    ...number("uint32", "embedding_length", config.hidden_size),
    ...number("uint32", "feed_forward_length", config.intermediate_size),
    ...number("uint32", "attention.head_count", config.num_attention_heads),
    ...number("float32", "attention.layer_norm_epsilon", config.layer_norm_eps ?? config.norm_eps ?? 1e-12),
    ...number("uint32", "pooling_type", pooling),
    ...number("float32", "rope.freq_base", rope?.rope_theta ?? rope?.full_attention?.rope_theta),
    ...number("float32", "rope.freq_base_swa", rope?.sliding_attention?.rope_theta),
    ...number("uint32", "attention.sliding_window", window),
  ];
}

function isControl(text: string): boolean {
  return text.startsWith("[") && text.endsWith("]");
}

/** Lists the vocabulary of WordPiece as the converter writes it: `▁` before words, nothing before what continues one. */
function vocabulary(vocab: Readonly<Record<string, number>>): readonly Entry[] {
  const texts = Object.keys(vocab).toSorted((a, b) => (vocab[a] ?? 0) - (vocab[b] ?? 0));
  const spelled = texts.map((text) => {
    if (isControl(text)) return text;
    return text.startsWith("##") ? text.slice(2) : `▁${text}`;
  });
  const types = texts.map((text) => (isControl(text) ? CONTROL : NORMAL));
  const roles = { unknown: "[UNK]", seperator: "[SEP]", padding: "[PAD]", cls: "[CLS]", mask: "[MASK]" };
  return [
    ["tokenizer.ggml.model", { type: "string", value: "bert" }],
    ["tokenizer.ggml.tokens", { type: "array", of: "string", value: spelled }],
    ["tokenizer.ggml.token_type", { type: "array", of: "int32", value: types }],
    ...Object.entries(roles).map(([role, text]): Entry => [
      `tokenizer.ggml.${role}_token_id`,
      { type: "uint32", value: vocab[text] ?? 0 },
    ]),
  ];
}
