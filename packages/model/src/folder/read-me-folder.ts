// Read-ME folders: the `readme` section of config.json, a backbone, one file per expert, and a router.

import { createHash } from "node:crypto";
import { copyFile, mkdir } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { fingerprintOf } from "../cache/cached-data.ts";
import { type Fields, MOST } from "../config/fields.ts";
import type { ModelConfig } from "../config/model-config.ts";
import { unsupported } from "../files/errors.ts";
import { encodeFloats } from "../files/floats.ts";
import { orClose, together } from "../files/read-file.ts";
import { toJson, writeFileAtomically, writeFolderAtomically } from "../files/write-file.ts";
import type { LoraSet } from "../lora/lora.ts";
import { isSafetensorsType } from "../safetensors/header.ts";
import { SafetensorsFile, type SafetensorsInput, writeSafetensors } from "../safetensors/safetensors-file.ts";
import { feedForwardRefs, locateWeights } from "../weights/locate-weights.ts";
import { locateRouter, parseRouterConfig, type RouterConfig, type RouterWeights } from "../weights/locate-router.ts";
import type { ExpertLayout, FeedForwardRefs, LinearRefs, ModelWeights, TensorRef } from "../weights/model-weights.ts";
import { BACKBONE_FILE, CONFIG_FILE, expertFile, type Located, ROUTER_FILE } from "./model.ts";

/** Version of the folder's layout that this code reads and writes. */
const READ_ME_VERSION = 1;

/** The `readme` section of config.json, spelled as in JSON. */
export interface ReadMeSection {
  readonly version: typeof READ_ME_VERSION;
  readonly num_experts: number;
  readonly expert_names: readonly string[];
  /** FFN rows of each expert; one number for all layers, or one per layer. */
  readonly expert_size: number | readonly number[];
  /** FFN rows that every token uses in addition; one number or one per layer, 0 for none. */
  readonly shared_size: number | readonly number[];
  /** Absent when the folder has no router. */
  readonly router?: {
    readonly embedding_size: number;
    readonly inner_size: number;
    readonly num_heads: number;
    readonly num_layers: number;
    readonly normalizer: number;
    readonly rope_theta: number;
    readonly context_tokens: number;
    readonly activation: "silu";
  };
  /** Origin of the model and how it was made; free-form. */
  readonly provenance?: Readonly<Record<string, unknown>>;
}

/** Opens the files of a Read-ME folder. @throws {ReadMeError} naming the file or field that is wrong */
export async function openReadMe(path: string, config: ModelConfig, readme: Fields): Promise<Located> {
  if (config.mixture || config.recurrence) {
    const base = config.mixture ? "a mixture" : "layers without attention";
    throw unsupported(path, `has a section \`readme\` over ${base}; experts are made from dense models with attention`);
  }
  const { experts, router: routerConfig } = parseReadMe(readme, config);
  const stores: SafetensorsFile[] = [];
  const open = async (name: string): Promise<SafetensorsFile> => {
    const store = await SafetensorsFile.open(join(path, name));
    stores.push(store);
    return store;
  };
  return orClose(together(stores), async () => {
    const backbone = await open(BACKBONE_FILE);
    const expertStores: SafetensorsFile[] = [];
    for (const expert of experts.names.keys()) expertStores.push(await open(expertFile(expert)));
    const routerStore = routerConfig && (await open(ROUTER_FILE));
    const weights = locateWeights(backbone, config, (layer) => {
      const place = { prefix: `model.layers.${layer}.mlp.` };
      const rows = (store: SafetensorsFile, size: number) =>
        feedForwardRefs(store, place, { size, hiddenSize: config.hiddenSize, hasBias: "if present" });
      const sharedSize = experts.sharedSizes[layer] ?? 0;
      return {
        shared: sharedSize > 0 ? rows(backbone, sharedSize) : undefined,
        experts: expertStores.map((store) => rows(store, experts.expertSizes[layer] ?? 0)),
      };
    });
    const router = routerConfig && routerStore && locateRouter(routerStore, "", routerConfig);
    return { kind: "read-me", experts, weights, router, files: stores.map((store) => store.path), stores };
  });
}

/** Opens a router in a file of its own, without the model that it is of. */
export async function openRouterFile(
  folder: string,
  config: RouterConfig,
): Promise<Pick<LoraSet, "router" | "fingerprint" | "close">> {
  const store = await SafetensorsFile.open(join(folder, ROUTER_FILE));
  return orClose(store, async () => {
    const router = locateRouter(store, "", config);
    const tensors = await fingerprintOf([store.path]);
    const fingerprint = async (cacheFolder: string): Promise<string> => {
      const hash = createHash("sha256").update(await tensors(cacheFolder));
      return hash.update(JSON.stringify(config)).digest("hex");
    };
    return { router, fingerprint, close: () => store.close() };
  });
}

/** @throws {ReadMeError} naming the field that is wrong, or a version that this code does not know */
export function parseReadMe(
  readme: Fields,
  config: ModelConfig,
): { readonly experts: ExpertLayout; readonly router: RouterConfig | undefined } {
  if (readme.size("version", MOST.integer) !== READ_ME_VERSION)
    readme.unsupported("version", `supported is ${READ_ME_VERSION}`);
  const numExperts = readme.size("num_experts", MOST.routedExperts);
  const router = readme.object("router");
  return {
    experts: {
      names: expertNames(readme, numExperts),
      expertSizes: perLayer(readme, "expert_size", config.numLayers, 1),
      sharedSizes: perLayer(readme, "shared_size", config.numLayers, 0),
    },
    router: router && parseRouterConfig(router, config, numExperts),
  };
}

function expertNames(readme: Fields, numExperts: number): readonly string[] {
  const names = readme.list("expert_names") ?? Array.from({ length: numExperts }, (_, expert) => `${expert}`);
  if (names.length !== numExperts || !names.every((name): name is string => typeof name === "string" && name !== "")) {
    throw readme.invalid(`expected \`readme.expert_names\` to be ${numExperts} names`);
  }
  if (new Set(names).size !== numExperts) throw readme.invalid("`readme.expert_names` has a name twice");
  return names;
}

function perLayer(readme: Fields, name: string, numLayers: number, least: number): readonly number[] {
  const value = readme.raw(name) ?? (least === 0 ? 0 : undefined);
  const sizes: readonly unknown[] = Array.isArray(value) ? value : Array.from({ length: numLayers }, () => value);
  const isSize = (size: unknown): size is number =>
    typeof size === "number" && Number.isInteger(size) && size >= least && size <= MOST.width;
  if (sizes.length === numLayers && sizes.every(isSize)) return sizes;
  throw readme.invalid(
    `expected \`readme.${name}\` to be an integer from ${least} to ${MOST.width}, or one for each of ${numLayers} layers`,
  );
}

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
  const texts = { ...documents, [CONFIG_FILE]: toJson({ ...config, readme }) };
  for (const [name, text] of Object.entries(texts)) {
    const path = join(folder, name);
    await mkdir(dirname(path), { recursive: true });
    await writeFileAtomically(path, text);
  }
}

/**
 * Lists an opened model's tensors under the names and in the order of a Read-ME folder's files. Each is read when it is
 * written; the numbers are those of the model, whatever its layout.
 *
 * @param options - with `keepsBlocks` lists blocks as they are; they become float32 otherwise
 */
export function readMeTensors(
  weights: ModelWeights,
  router: RouterWeights | undefined,
  { keepsBlocks = false }: { readonly keepsBlocks?: boolean } = {},
): ReadMeTensors {
  const feedForward = (index: number, refs: FeedForwardRefs | undefined): readonly SafetensorsInput[] =>
    copyFeedForward(index, refs, keepsBlocks);
  const copyRef = (name: string, ref: TensorRef): SafetensorsInput => copy(name, ref, keepsBlocks);
  const backbone = [copyRef("model.embed_tokens.weight", weights.embedding)];
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
    backbone.push(...refs.flatMap((ref) => (ref ? [copyRef(ref.name, ref)] : [])), ...feedForward(index, layer.shared));
  });
  backbone.push(copyRef("model.norm.weight", weights.finalNorm));
  if (weights.head !== weights.embedding) backbone.push(copyRef("lm_head.weight", weights.head));
  const numExperts = weights.layers[0]?.experts.length ?? 0;
  return {
    backbone,
    experts: Array.from({ length: numExperts }, (_, expert) =>
      weights.layers.flatMap((layer, index) => feedForward(index, layer.experts[expert])),
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

function copyFeedForward(
  layer: number,
  refs: FeedForwardRefs | undefined,
  keepsBlocks: boolean,
): readonly SafetensorsInput[] {
  if (refs === undefined) return [];
  const prefix = `model.layers.${layer}.mlp`;
  return [
    ...copyLinear(`${prefix}.gate_proj`, refs.gate, keepsBlocks),
    ...copyLinear(`${prefix}.up_proj`, refs.up, keepsBlocks),
    ...copyLinear(`${prefix}.down_proj`, refs.down, keepsBlocks),
  ];
}

function copyLinear(prefix: string, { weight, bias }: LinearRefs, keepsBlocks = false): readonly SafetensorsInput[] {
  return [copy(`${prefix}.weight`, weight, keepsBlocks), ...(bias ? [copy(`${prefix}.bias`, bias)] : [])];
}

/** Copies the stored bytes; blocks become float32 unless they are kept. */
function copy(name: string, { store, name: storedName, shape }: TensorRef, keepsBlocks = false): SafetensorsInput {
  const { type } = store.info(storedName);
  if (isSafetensorsType(type) || keepsBlocks) return { name, type, shape, bytes: () => store.readBytes(storedName) };
  return { name, type: "F32", shape, bytes: async () => encodeFloats(await store.readFloats(storedName), "F32") };
}
