import { copyFile, mkdir } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { encodeFloats } from "../files/floats.ts";
import { writeFileAtomically, writeFolderAtomically } from "../files/write-file.ts";
import { isSafetensorsType } from "../safetensors/header.ts";
import { type SafetensorsInput, writeSafetensors } from "../safetensors/write-safetensors.ts";
import type { FeedForwardRefs, LinearRefs, ModelWeights } from "../weights/model-weights.ts";
import type { RouterWeights } from "../weights/router-weights.ts";
import type { TensorRef } from "../weights/tensor-ref.ts";
import { BACKBONE_FILE, CONFIG_FILE, expertFile, ROUTER_FILE } from "./model.ts";
import type { ReadMeSection } from "./read-me-folder.ts";

/** The contents of a Read-ME folder. */
export interface ReadMeContent {
  /** The base model's config.json, unchanged; `readme` is added to it. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly readme: ReadMeSection;
  readonly tensors: ReadMeTensors;
  /** Files that are copied under their names, such as the base model's tokenizer.json. */
  readonly copies?: readonly string[] | undefined;
  /** Further text files by name, such as report.json, README.md and pictures/losses.svg. */
  readonly documents?: Readonly<Record<string, string>> | undefined;
}

/** The tensors of each file of a Read-ME folder. */
export interface ReadMeTensors {
  readonly backbone: readonly SafetensorsInput[];
  /** One list per expert, with the tensors of a layer side by side. */
  readonly experts: readonly (readonly SafetensorsInput[])[];
  readonly router: readonly SafetensorsInput[] | undefined;
}

/**
 * Writes a Read-ME model folder, whole or not at all: beside `path` under a temporary name, which is then renamed.
 *
 * @param path - a folder that does not exist yet, or is empty
 * @throws {ReadMeError} `ERR_WRITE_FAILED` when it is neither, or when anything fails underway
 */
export async function writeReadMeFolder(path: string, content: ReadMeContent): Promise<void> {
  await writeFolderAtomically(path, (folder) => writeAll(folder, content));
}

async function writeAll(folder: string, { config, readme, tensors, copies, documents }: ReadMeContent): Promise<void> {
  await mkdir(join(folder, "experts"));
  await writeSafetensors(join(folder, BACKBONE_FILE), tensors.backbone);
  for (const [expert, inputs] of tensors.experts.entries()) {
    await writeSafetensors(join(folder, expertFile(expert)), inputs);
  }
  if (tensors.router) await writeSafetensors(join(folder, ROUTER_FILE), tensors.router);
  for (const source of copies ?? []) await copyFile(source, join(folder, basename(source)));
  const texts = { ...documents, [CONFIG_FILE]: `${JSON.stringify({ ...config, readme }, undefined, 2)}\n` };
  for (const [name, text] of Object.entries(texts)) {
    const path = join(folder, name);
    await mkdir(dirname(path), { recursive: true });
    await writeFileAtomically(path, text);
  }
}

/**
 * Lists an opened model's tensors under the names and in the order of a Read-ME folder's files. Each is read when it is
 * written; the numbers are those of the model, whatever its layout.
 */
export function readMeTensors(weights: ModelWeights, router: RouterWeights | undefined): ReadMeTensors {
  const backbone = [copy("model.embed_tokens.weight", weights.embedding)];
  weights.layers.forEach((layer, index) => {
    const { query, key, value, output, queryNorm, keyNorm } = layer.attention;
    const norms = [layer.attentionOutputNorm, layer.ffnNorm, layer.ffnOutputNorm];
    const refs = [
      layer.attentionNorm,
      ...[query, key, value, output].flatMap(({ weight, bias }) => [weight, bias]),
      queryNorm,
      keyNorm,
      ...norms,
    ];
    // Outside of FFNs all layouts have the same names.
    backbone.push(
      ...refs.flatMap((ref) => (ref ? [copy(ref.name, ref)] : [])),
      ...copyFeedForward(index, layer.shared),
    );
  });
  backbone.push(copy("model.norm.weight", weights.finalNorm));
  if (weights.head !== weights.embedding) backbone.push(copy("lm_head.weight", weights.head));
  const numExperts = weights.layers[0]?.experts.length ?? 0;
  return {
    backbone,
    experts: Array.from({ length: numExperts }, (_, expert) =>
      weights.layers.flatMap((layer, index) => copyFeedForward(index, layer.experts[expert])),
    ),
    router: router && routerTensors(router),
  };
}

function routerTensors({ embedding, layers, finalNorm, head }: RouterWeights): readonly SafetensorsInput[] {
  return [
    copy("embed.weight", embedding),
    ...layers.flatMap((layer, index) => [
      copy(`input_layernorm_${index}.weight`, layer.inputNorm),
      ...copyLinear(`q_proj_${index}`, layer.query),
      ...copyLinear(`k_proj_${index}`, layer.key),
      ...copyLinear(`v_proj_${index}`, layer.value),
      ...copyLinear(`o_proj_${index}`, layer.output),
      copy(`post_attention_layernorm_${index}.weight`, layer.postAttentionNorm),
      ...copyLinear(`proj_1_${index}`, layer.expand),
      ...copyLinear(`proj_2_${index}`, layer.contract),
    ]),
    copy("out_layernorm.weight", finalNorm),
    ...copyLinear("proj_out", head),
  ];
}

function copyFeedForward(layer: number, refs: FeedForwardRefs | undefined): readonly SafetensorsInput[] {
  if (refs === undefined) return [];
  const prefix = `model.layers.${layer}.mlp`;
  return [
    ...copyLinear(`${prefix}.gate_proj`, refs.gate),
    ...copyLinear(`${prefix}.up_proj`, refs.up),
    ...copyLinear(`${prefix}.down_proj`, refs.down),
  ];
}

function copyLinear(prefix: string, { weight, bias }: LinearRefs): readonly SafetensorsInput[] {
  return [copy(`${prefix}.weight`, weight), ...(bias ? [copy(`${prefix}.bias`, bias)] : [])];
}

/** Copies the stored bytes; blocks of a GGUF file, which safetensors do not have, become float32. */
function copy(name: string, { store, name: storedName, shape }: TensorRef): SafetensorsInput {
  const { type } = store.info(storedName);
  if (isSafetensorsType(type)) return { name, type, shape, bytes: () => store.readBytes(storedName) };
  return { name, type: "F32", shape, bytes: async () => encodeFloats(await store.readFloats(storedName), "F32") };
}
