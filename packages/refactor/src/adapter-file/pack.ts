// A Read-ME model as a file of changes to public weights.

import { basename, join } from "node:path";
import { crc32 } from "node:zlib";
import { ReadMeError } from "@readme-moe/core";
import {
  modelLicense,
  readTextFile,
  writeSafetensors,
  type Model,
  type ReadMeSection,
  type SafetensorsInput,
} from "@readme-moe/model";
import type { DomainText } from "../job/prepare-domain.ts";
import { Products } from "../linear-algebra/products.ts";
import { basePrint, type BasePrint } from "./base-print.ts";
import { BaseWeights } from "./base-weights.ts";
import { choose, leastBytes } from "./choose.ts";
import * as content from "./content.ts";
import { NUM_CONTEXTS } from "./contexts.ts";
import { contentDigest } from "./digest.ts";
import { packDocuments, readDocuments } from "./documents.ts";
import { encodeTensors, type EncodedTensors, type Payload } from "./encode-tensors.ts";
import { scaleShape, type InputScales } from "./input-scales.ts";
import { maskBytes, maskOf } from "./masks.ts";
import { measureInputs } from "./measure-inputs.ts";
import { findNeurons, type LayerParts } from "./part-neurons.ts";
import { planTensors, type TensorPlan } from "./plan-tensors.ts";
import { NUM_SYMBOLS, type SymbolTables } from "./symbols.ts";
import { targetsOf } from "./targets.ts";

/** 40 MB. */
const DEFAULT_MAX_BYTES = 40e6;

/** Of `packAdapter`. */
export interface PackOptions {
  /** The file is not larger. @default 40 MB */
  readonly maxBytes?: number | undefined;
  /**
   * Texts of the kinds that the model is for: changes are rounded by how much comes to each column of a product on them.
   * Without any, all columns count alike, and the same bytes lose more.
   */
  readonly texts?: readonly DomainText[] | undefined;
  readonly onProgress?: ((progress: PackProgress) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** How far a packing is in one of its stages. */
export interface PackProgress {
  readonly stage: "reading" | "measuring" | "comparing" | "packing";
  readonly done: number;
  readonly of: number;
}

/** What a packed file holds and loses. `bytes` is its size. */
export interface PackReport extends content.PackFigures {
  readonly bytes: number;
  readonly base: content.BaseNote;
}

// What a file takes beside its tensors is known once it is made. Where the guess was off, it is made again.
const MOST_ROUNDS = 4;
const FULL_ENOUGH = 0.98;
const MARGIN = 0.002;

/**
 * Writes a Read-ME model as changes to the dense model that it was made from: which neurons each expert has, and what is
 * different in them, in as few bits as fit. The file is written whole or not at all, and is the same for the same input.
 *
 * @param model - of the kind `read-me`
 * @param base - of the kind `dense`
 * @param path - a file; one that is there is replaced
 * @throws {RangeError} when `maxBytes` is too few, saying how many it takes; when a text is too short
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` for models of other kinds or that do not belong together; `ERR_WRITE_FAILED`
 */
export async function packAdapter(
  model: Model,
  base: Model,
  path: string,
  options: PackOptions = {},
): Promise<PackReport> {
  checkModels(model, base);
  const products = await Products.open();
  try {
    return await packWith(products, model, base, path, options);
  } finally {
    await products.dispose();
  }
}

async function packWith(
  products: Products,
  model: Model,
  base: Model,
  path: string,
  { maxBytes = DEFAULT_MAX_BYTES, texts, onProgress, signal }: PackOptions,
): Promise<PackReport> {
  const weights = new BaseWeights(base);
  const note = (stage: PackProgress["stage"], of: number) => (done: number) => {
    signal?.throwIfAborted();
    onProgress?.({ stage, done, of });
  };
  const inputs = texts && (await measureInputs(base, texts, note("measuring", base.config.numLayers)));
  note("reading", 1)(0);
  const [print, parts] = [await basePrint(weights), await findNeurons(model, weights)];
  const targets = targetsOf(model, parts);
  const plans = await planTensors(targets, weights, products, inputs?.scales, note("comparing", targets.length));
  const about = {
    base: { name: baseName(base), license: (await modelLicense(base)) ?? null, sha256: print.sha256 },
    readme: await readSection(model),
  };
  const fixed = [...(await fixedPayloads(model, base, parts, print)), ...(inputs ? [scalePayload(inputs.scales)] : [])];
  let budget = maxBytes - fixed.reduce((sum, { bytes }) => sum + bytes.byteLength, 0) - headerBytes(plans);
  let best: Packed | undefined;
  let encoded: EncodedTensors | undefined;
  for (let round = 0; round < MOST_ROUNDS; round++) {
    const chosen = choose(plans, budget);
    if (!chosen) break;
    const onTensor = note("packing", targets.length);
    encoded = await encodeTensors(plans, chosen, weights, products, inputs, encoded, onTensor);
    const packed = packedOf(about, encoded, [...fixed, frequencies(chosen.tables), ...encoded.payloads]);
    const isMore = packed.bytes <= maxBytes && packed.bytes > (best?.bytes ?? 0);
    if (isMore) best = packed;
    if (best && (!isMore || packed.bytes >= FULL_ENOUGH * maxBytes)) break;
    budget += maxBytes - packed.bytes - maxBytes * MARGIN;
  }
  if (best) {
    signal?.throwIfAborted();
    await writeSafetensors(path, best.payloads.map(inputOf), best.metadata);
    return { ...best.figures, bytes: best.bytes, base: about.base };
  }
  const least = maxBytes - budget + leastBytes(plans);
  throw new RangeError(
    `Expected \`maxBytes\` to be at least about ${Math.ceil(least)} for this model, got ${maxBytes}`,
  );
}

/** A file before it is written. */
interface Packed {
  readonly payloads: readonly Payload[];
  readonly metadata: Readonly<Record<string, string>>;
  readonly bytes: number;
  readonly figures: content.PackFigures;
}

function packedOf(
  about: Pick<content.AdapterContent, "base" | "readme">,
  encoded: EncodedTensors,
  payloads: readonly Payload[],
): Packed {
  const text = content.writeContent(contentOf(about, encoded, payloads));
  const metadata = {
    format: content.FORMAT,
    version: `${content.FORMAT_VERSION}`,
    content: text,
    sha256: contentDigest(text),
  };
  return { payloads, metadata, bytes: fileBytes(payloads, metadata), figures: encoded.figures };
}

function checkModels(model: Model, base: Model): void {
  if (model.kind !== "read-me") throw wrong(model, "is no Read-ME model folder");
  if (base.kind !== "dense") throw wrong(base, "is no dense model, as the base of an adapter file has to be");
  for (const size of ["vocabSize", "hiddenSize", "numLayers", "numHeads", "numKvHeads", "headSize"] as const) {
    if (model.config[size] === base.config[size]) continue;
    throw wrong(
      base,
      `is not what ${model.path} was made from: its ${size} is ${base.config[size]}, not ${model.config[size]}`,
    );
  }
}

function wrong({ path }: Model, what: string): ReadMeError {
  return new ReadMeError("ERR_MODEL_UNSUPPORTED", `${path}: ${what}`);
}

function baseName({ path }: Model): string {
  return basename(path).replace(/\.gguf$/i, "");
}

async function readSection({ path }: Model): Promise<ReadMeSection> {
  const text = (await readTextFile(join(path, "config.json"), 16 << 20)) as string;
  return (JSON.parse(text) as { readonly readme: ReadMeSection }).readme;
}

async function fixedPayloads(
  model: Model,
  base: Model,
  parts: readonly LayerParts[],
  print: BasePrint,
): Promise<readonly Payload[]> {
  const { intermediateSize } = base.config;
  const numExperts = model.experts.names.length;
  const ids = [...Array.from({ length: numExperts }, (_, expert) => expert), "shared" as const];
  const width = maskBytes(intermediateSize);
  const masks = new Uint8Array(parts.length * ids.length * width);
  parts.forEach((layer, at) =>
    ids.forEach((id, part) => {
      const neurons = layer.get(id)?.neurons;
      if (neurons) masks.set(maskOf(neurons, intermediateSize), (at * ids.length + part) * width);
    }),
  );
  const { samples } = print;
  const documents = packDocuments(await readDocuments(model.path));
  return [
    { name: content.MASKS, type: "U8", shape: [parts.length, ids.length, width], bytes: masks },
    { name: content.SAMPLES, type: "F32", shape: [samples.length], bytes: new Uint8Array(samples.buffer) },
    { name: content.DOCUMENTS, type: "U8", shape: [documents.length], bytes: documents },
  ];
}

function scalePayload({ codes, sizes }: InputScales): Payload {
  return { name: content.SCALES, type: "U8", shape: scaleShape(sizes), bytes: codes };
}

function frequencies({ frequencies: values }: SymbolTables): Payload {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  return { name: content.FREQUENCIES, type: "I16", shape: [NUM_CONTEXTS, NUM_SYMBOLS], bytes };
}

function contentOf(
  about: Pick<content.AdapterContent, "base" | "readme">,
  { entries, figures }: EncodedTensors,
  payloads: readonly Payload[],
): content.AdapterContent {
  const ofFile = (file: string): readonly content.Entry[] => entries.get(file) ?? [];
  return {
    ...about,
    backbone: ofFile("backbone"),
    experts: Array.from({ length: about.readme.num_experts }, (_, expert) => ofFile(`experts/${expert}`)),
    router: entries.has("router") ? ofFile("router") : null,
    figures,
    checksums: Object.fromEntries(payloads.map(({ name, bytes }) => [name, crc32(bytes)])),
  };
}

function inputOf({ bytes, ...rest }: Payload): SafetensorsInput {
  return { ...rest, bytes: async () => bytes };
}

// Of a tensor: its entry, its checksum, and its place in the container.
const HEADER_BYTES_PER_TENSOR = 330;

/** About what the description will take. */
function headerBytes(plans: readonly TensorPlan[]): number {
  return 16_384 + plans.length * HEADER_BYTES_PER_TENSOR;
}

function fileBytes(payloads: readonly Payload[], metadata: Readonly<Record<string, string>>): number {
  let offset = 0;
  const members = payloads.map(({ name, type, shape, bytes }) => {
    const from = offset;
    offset += bytes.byteLength;
    return `${JSON.stringify(name)}:{"dtype":"${type}","shape":${JSON.stringify(shape)},"data_offsets":[${from},${offset}]}`;
  });
  const header = `{"__metadata__":${JSON.stringify(metadata)},${members.join(",")}}`;
  return 8 + Math.ceil(Buffer.byteLength(header) / 8) * 8 + offset;
}
