// Packs a Read-ME model as differences from a public dense model.

import { basename, join } from "node:path";
import { crc32, gzipSync } from "node:zlib";
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
import { Products } from "../linear-algebra/matrix.ts";
import { changeOf } from "./apply.ts";
import { basePrint, BaseWeights, type BasePrint } from "./base-model.ts";
import * as format from "./delta-file.ts";
import { measureScales, scaledColumns, scaleShape, scalesOf, type InputScales } from "./input-scales.ts";
import { packIntegers, quantize } from "./integers.ts";
import { squares } from "./low-rank.ts";
import { findNeurons, maskBytes, maskOf, type LayerParts } from "./neurons.ts";
import {
  allocate,
  difference,
  factorsOf,
  kindOf,
  planTensors,
  readTarget,
  readTargetBytes,
  scaledFactors,
  targetsOf,
  type PlanContext,
  type Target,
} from "./plan-tensors.ts";

const DEFAULT_MAX_BYTES = 40e6;

/** Options of `packDelta`. */
export interface PackOptions {
  /** Largest size of the file. @default 40 MB */
  readonly maxBytes?: number | undefined;
  /**
   * Texts of the kinds that the model is for: each column of a product is rounded by the size of its inputs on
   * them. Without texts, all columns count alike, and the same bytes lose more.
   */
  readonly texts?: readonly DomainText[] | undefined;
  readonly onProgress?: ((progress: PackProgress) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Progress of packing within one of its stages. */
export interface PackProgress {
  readonly stage: "reading" | "measuring" | "comparing" | "packing";
  readonly done: number;
  readonly of: number;
}

/** Contents and losses of a packed file. `bytes` is its size. */
export interface PackReport extends format.PackFigures {
  readonly bytes: number;
  readonly base: format.BaseNote;
}

// Sizes are known before tensors are encoded, except for a few bytes of each in the header.
const MARGIN = 0.001;
const MOST_ROUNDS = 4;

/**
 * Writes a Read-ME model as differences from the dense model that it was made from: the neurons of each expert, and
 * the changes in them, in as few bits as fit. The file is written whole or not at all, and is the same for the same
 * input.
 *
 * @param model - a model of the kind `read-me`
 * @param base - a model of the kind `dense`
 * @param path - file to write; an existing one is replaced
 * @throws {RangeError} when `maxBytes` is too small, naming the least size; when a text is too short
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` for models of other kinds or that do not belong together;
 *   `ERR_WRITE_FAILED`
 */
export async function packDelta(
  model: Model,
  base: Model,
  path: string,
  options: PackOptions = {},
): Promise<PackReport> {
  checkModels(model, base);
  const products = await Products.open();
  try {
    const packed = await packWith(products, model, base, options);
    options.signal?.throwIfAborted();
    const inputs = packed.payloads.map(({ bytes, ...rest }) => ({ ...rest, bytes: async () => bytes }));
    await writeSafetensors(path, inputs, packed.metadata);
    return packed.report;
  } finally {
    await products.dispose();
  }
}

/** A file before it is written. */
interface Packed {
  readonly payloads: readonly Payload[];
  readonly metadata: Readonly<Record<string, string>>;
  readonly report: PackReport;
}

async function packWith(
  products: Products,
  model: Model,
  baseModel: Model,
  { maxBytes = DEFAULT_MAX_BYTES, texts, onProgress, signal }: PackOptions,
): Promise<Packed> {
  const note = (stage: PackProgress["stage"], of: number) => (done: number) => {
    signal?.throwIfAborted();
    onProgress?.({ stage, done, of });
  };
  const base = new BaseWeights(baseModel);
  const scales = texts && (await measureScales(baseModel, texts, note("measuring", baseModel.config.numLayers)));
  note("reading", 1)(0);
  const print = await basePrint(base);
  const parts = await findNeurons(model, base, products);
  const targets = targetsOf(model, parts);
  const context = { base, products, scales };
  const plans = await planTensors(targets, context, note("comparing", targets.length));
  const license = (await modelLicense(baseModel)) ?? null;
  const about = {
    base: { name: basename(baseModel.path).replace(/\.gguf$/i, ""), license, sha256: print.sha256 },
    readme: await readSection(model),
  };
  const fixed = await fixedPayloads(model, base, { parts, print, scales });
  let budget = maxBytes * (1 - MARGIN) - packedOf(about, [], fixed).report.bytes;
  const choices = plans.map((plan) => plan.choices);
  for (let round = 0; round < MOST_ROUNDS; round++) {
    const chosen = allocate(choices, budget);
    if (!chosen) break;
    const onTensor = note("packing", targets.length);
    const encoded: Encoded[] = [];
    for (const [index, target] of targets.entries()) {
      onTensor(index);
      encoded.push(await encodeTensor(target, chosen[index]?.how ?? { coding: "whole" }, context));
    }
    const packed = packedOf(about, encoded, fixed);
    if (packed.report.bytes <= maxBytes) return packed;
    budget -= packed.report.bytes - maxBytes * (1 - MARGIN);
  }
  const least = choices.reduce((sum, ways) => sum + Math.min(...ways.map(({ bytes }) => bytes)), maxBytes - budget);
  throw new RangeError(
    `Expected \`maxBytes\` to be at least about ${Math.ceil(least)} for this model, got ${maxBytes}`,
  );
}

/** A tensor of the container. */
type Payload = Pick<SafetensorsInput, "name" | "type" | "shape"> & {
  readonly bytes: Uint8Array;
  readonly checksum: number;
};

interface Encoded {
  readonly target: Target;
  readonly how: format.Coding;
  readonly payloads: readonly Payload[];
  /** Sum of squared differences from the base model. */
  readonly change: number;
  /** Sum of squares of what is lost of the difference. */
  readonly error: number;
}

async function encodeTensor(
  target: Target,
  how: format.Coding,
  { base, products, scales }: PlanContext,
): Promise<Encoded> {
  const { file, input, part } = target;
  const { name, type, shape } = input;
  if (how.coding === "whole") {
    const bytes = await readTargetBytes(target);
    const payloads = [payloadOf({ name: format.payloadName(file, name), type, shape }, bytes)];
    return { target, how, payloads, change: 0, error: 0 };
  }
  const neurons = part?.neurons;
  const inBase = file === "router" ? undefined : await base.inPlaceOf(name, neurons);
  const change = difference(await readTarget(target), inBase);
  const square = squares(change);
  if (how.coding === "base") {
    // Half precision is off by less than a thousandth of each number, which does not count as a change.
    const isRounding = inBase !== undefined && square <= 1e-6 * squares(inBase);
    return { target, how, payloads: [], change: isRounding ? 0 : square, error: square };
  }
  const own = scalesOf(scales, { file, name, neurons });
  const scaled = scaledColumns(change, own, "times");
  const factors = how.coding === "low-rank" ? await factorsOf(products, scaled, shape) : undefined;
  const sizes = how.coding === "low-rank" ? factors?.sizes.slice(0, how.rank) : undefined;
  const codes = quantize(factors && sizes ? scaledFactors(factors, sizes.length) : scaled, how.step);
  const decoded = scaledColumns(changeOf(shape, how, codes, sizes), own, "over");
  const bytes = packIntegers(codes);
  const payloads = [payloadOf({ name: format.payloadName(file, name), type: "U8", shape: [bytes.length] }, bytes)];
  if (sizes) {
    const place = { name: format.sizesName(file, name), type: "F32", shape: [sizes.length] } as const;
    payloads.push(payloadOf(place, new Uint8Array(sizes.buffer)));
  }
  return { target, how, payloads, change: square, error: squares(difference(change, decoded)) };
}

function payloadOf(place: Pick<SafetensorsInput, "name" | "type" | "shape">, bytes: Uint8Array): Payload {
  return { ...place, bytes, checksum: crc32(bytes) };
}

/** Lists the entries of each file: `backbone`, `experts/<i>` and `router`. */
function entriesOf(encoded: readonly Encoded[]): ReadonlyMap<string, readonly format.Entry[]> {
  const entries = new Map<string, format.Entry[]>();
  for (const { target, how } of encoded) {
    const { name, type, shape } = target.input;
    const own = entries.get(target.file) ?? [];
    own.push({ name, type, shape, ...how });
    entries.set(target.file, own);
  }
  return entries;
}

/** Sums up what is changed and what is lost. */
function figuresOf(encoded: readonly Encoded[]): format.PackFigures {
  const sumsOf = new Map<string, { change: number; error: number }>();
  const codings: Record<string, number> = {};
  let changedValues = 0;
  for (const { target, how, change, error } of encoded) {
    codings[how.coding] = (codings[how.coding] ?? 0) + 1;
    if (change === 0) continue;
    changedValues += format.countOf(target.input.shape);
    const sums = sumsOf.get(kindOf(target)) ?? { change: 0, error: 0 };
    sumsOf.set(kindOf(target), { change: sums.change + change, error: sums.error + error });
  }
  const errors = [...sumsOf].map(([kind, { change, error }]) => [kind, Math.sqrt(error / change)] as const);
  return { changed_values: changedValues, relative_errors: Object.fromEntries(errors), codings };
}

function packedOf(
  about: Pick<format.DeltaContent, "base" | "readme">,
  encoded: readonly Encoded[],
  fixed: readonly Payload[],
): Packed {
  const payloads = [...fixed, ...encoded.flatMap((one) => one.payloads)];
  const entries = entriesOf(encoded);
  const figures = figuresOf(encoded);
  const metadata = format.writeMetadata({
    ...about,
    backbone: entries.get("backbone") ?? [],
    experts: Array.from({ length: about.readme.num_experts }, (_, expert) => entries.get(`experts/${expert}`) ?? []),
    router: entries.get("router") ?? null,
    figures,
    checksums: Object.fromEntries(payloads.map(({ name, checksum }) => [name, checksum])),
  });
  return { payloads, metadata, report: { ...figures, bytes: fileBytes(payloads, metadata), base: about.base } };
}

/** Computes the size of the container. */
function fileBytes(payloads: readonly Payload[], metadata: Readonly<Record<string, string>>): number {
  let end = 0;
  const members = payloads.map(({ name, type, shape, bytes }) => {
    const from = end;
    end += bytes.byteLength;
    return [name, { dtype: type, shape, data_offsets: [from, end] }] as const;
  });
  const header = JSON.stringify({ __metadata__: metadata, ...Object.fromEntries(members) });
  return 8 + Math.ceil(Buffer.byteLength(header) / 8) * 8 + end;
}

function wrong({ path }: Model, what: string): ReadMeError {
  return new ReadMeError("ERR_MODEL_UNSUPPORTED", `${path}: ${what}`);
}

function checkModels(model: Model, base: Model): void {
  if (model.kind !== "read-me") throw wrong(model, "is not a Read-ME model folder");
  if (base.kind !== "dense") throw wrong(base, "is not a dense model, as the base of a delta file has to be");
  for (const size of ["vocabSize", "hiddenSize", "numLayers", "numHeads", "numKvHeads", "headSize"] as const) {
    const [found, wanted] = [base.config[size], model.config[size]];
    if (found === wanted) continue;
    throw wrong(base, `is not the base of ${model.path}: its ${size} is ${found}, not ${wanted}`);
  }
}

async function readSection({ path }: Model): Promise<ReadMeSection> {
  const text = (await readTextFile(join(path, "config.json"), 16 << 20)) ?? "";
  return (JSON.parse(text) as { readonly readme: ReadMeSection }).readme;
}

/** Payloads that do not depend on choices. */
async function fixedPayloads(
  model: Model,
  base: BaseWeights,
  found: {
    readonly parts: readonly LayerParts[];
    readonly print: BasePrint;
    readonly scales: InputScales | undefined;
  },
): Promise<readonly Payload[]> {
  const { parts, print, scales } = found;
  const { intermediateSize } = base.model.config;
  const ids = [...model.experts.names.keys(), "shared" as const];
  const width = maskBytes(intermediateSize);
  const empty = new Int32Array();
  const masks = Buffer.concat(
    parts.flatMap((layer) => ids.map((id) => maskOf(layer.get(id)?.neurons ?? empty, intermediateSize))),
  );
  const documents = new Uint8Array(gzipSync(JSON.stringify(await format.readDocuments(model.path)), { level: 9 }));
  const { samples } = print;
  return [
    payloadOf({ name: format.MASKS, type: "U8", shape: [parts.length, ids.length, width] }, masks),
    payloadOf({ name: format.SAMPLES, type: "F32", shape: [samples.length] }, new Uint8Array(samples.buffer)),
    payloadOf({ name: format.DOCUMENTS, type: "U8", shape: [documents.length] }, documents),
    ...(scales ? [payloadOf({ name: format.SCALES, type: "U8", shape: scaleShape(scales.sizes) }, scales.codes)] : []),
  ];
}
