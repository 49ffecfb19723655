// Makes a Read-ME model folder of a delta file and the dense model that it changes.

import { randomUUID } from "node:crypto";
import { rm } from "node:fs/promises";
import { basename, dirname, join, resolve, sep } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import {
  baseFiles,
  encodeFloats,
  isStoredFloat,
  openModel,
  writeReadMeFolder,
  type Model,
  type SafetensorsInput,
} from "@readme-moe/model";
import { finishFolder, refuseOccupied } from "../job/work-folder.ts";
import { basePrint, BaseWeights, compareBases, ffnLayerOf, type BaseMatch } from "./base-model.ts";
import {
  countOf,
  DeltaFile,
  FORMAT,
  payloadName,
  sizesName,
  type BaseNote,
  type Documents,
  type Entry,
  type IntegerCoding,
} from "./delta-file.ts";
import { scaledColumns, scalesOf, type InputScales } from "./input-scales.ts";
import { unpackIntegers } from "./integers.ts";
import type { PartId } from "./neurons.ts";

/** Options of `applyDelta`. */
export interface ApplyOptions {
  /** Called for a base model in another precision than the delta file was made for. */
  readonly onWarning?: ((message: string) => void) | undefined;
  readonly onProgress?: ((progress: { readonly done: number; readonly of: number }) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Result of applying a delta file: the base, and how well it fits. */
export interface ApplyReport {
  readonly base: BaseNote;
  /** Whether the base's weights are those that the file was made for, or the same in another precision. */
  readonly match: Exclude<BaseMatch["kind"], "other">;
  /** Root mean square, over tensors, of the relative difference from those weights; 0 where they are the same. */
  readonly relative_difference: number;
}

/**
 * Writes the Read-ME folder that a delta file makes of a dense model. The folder is there whole or not at all.
 *
 * @param path - delta file
 * @param base - a model of the kind `dense`
 * @param out - a folder that does not exist yet, or is empty
 * @throws {ReadMeError} `ERR_FILE_CORRUPT` naming file and tensor; `ERR_MODEL_UNSUPPORTED` for another base model;
 *   `ERR_WRITE_FAILED`
 */
export async function applyDelta(
  path: string,
  base: Model,
  out: string,
  { onWarning, onProgress, signal }: ApplyOptions = {},
): Promise<ApplyReport> {
  await refuseOccupied(out);
  if (base.kind !== "dense") {
    throw new ReadMeError("ERR_MODEL_UNSUPPORTED", `${base.path}: is not a dense model, which a delta file changes`);
  }
  const delta = await DeltaFile.open(path);
  const staging = join(dirname(resolve(out)), `.${basename(resolve(out))}-${randomUUID()}.tmp`);
  try {
    await delta.check();
    const weights = new BaseWeights(base);
    const match = compareBases(await delta.basePrint(), await basePrint(weights));
    const report = acceptBase(delta, base, match, onWarning);
    const tensors = await tensorsOf(delta, weights, (done, of) => {
      signal?.throwIfAborted();
      onProgress?.({ done, of });
    });
    const { config, texts } = await baseFiles(base);
    const { base: note, figures, readme: section } = delta.content;
    const packed = { format: FORMAT, base: note, base_difference: report.relative_difference, ...figures };
    const readme = { ...section, provenance: { ...section.provenance, packed } };
    const documents = { ...texts, ...withNote(await delta.documents(), delta, report) };
    await writeReadMeFolder(staging, { config, readme, tensors, documents });
    await checkModel(path, staging);
    signal?.throwIfAborted();
    await finishFolder(staging, out, {});
    return report;
  } catch (error) {
    signal?.throwIfAborted();
    throw faultOf(path, error);
  } finally {
    await rm(staging, { recursive: true, force: true }).catch(() => undefined);
    await delta.close();
  }
}

/** Finds the cause of a failed write, which may be the delta file: its tensors, or lists that no folder can have. */
function faultOf(path: string, error: unknown): unknown {
  if (!(error instanceof ReadMeError) || error.code !== "ERR_WRITE_FAILED") return error;
  const { cause } = error;
  if (cause instanceof ReadMeError) return cause;
  if (!(cause instanceof TypeError || cause instanceof RangeError)) return error;
  return new ReadMeError("ERR_FILE_CORRUPT", `${path}: does not describe a model: ${cause.message}`, { cause });
}

/** Opens the written folder, to find out whether the file's description of its model holds. */
async function checkModel(path: string, folder: string): Promise<void> {
  try {
    await (await openModel(folder)).close();
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message.replaceAll(`${folder}${sep}`, "") : String(cause);
    throw new ReadMeError("ERR_FILE_CORRUPT", `${path}: does not make a whole model: ${reason}`, { cause });
  }
}

function acceptBase(
  { path, content }: DeltaFile,
  base: Model,
  match: BaseMatch,
  onWarning: ApplyOptions["onWarning"],
): ApplyReport {
  if (match.kind === "same") return { base: content.base, match: "same", relative_difference: 0 };
  const wanted = `${content.base.name} (sha256 ${content.base.sha256.slice(0, 16)}…)`;
  const difference = match.relativeDifference;
  if (match.kind === "other") {
    const message = `${base.path}: is another model than ${wanted}, which ${path} changes`;
    const measured = Number.isFinite(difference) ? `: weights differ by ${percent(difference)}` : "";
    throw new ReadMeError("ERR_MODEL_UNSUPPORTED", `${message}${measured}`);
  }
  onWarning?.(
    `${base.path} is not ${wanted} bit for bit, but close to it: ${match.numDifferent} tensors differ, weights by ` +
      `${percent(difference)} on average, as in another precision. The quality of the result was not measured; ` +
      "`readme-moe eval` measures it.",
  );
  return { base: content.base, match: "near", relative_difference: difference };
}

function percent(share: number): string {
  return `${(100 * share).toPrecision(2)} %`;
}

/** Adds a note to the card, whose figures are those of the model before it was packed. */
function withNote(documents: Documents, { content }: DeltaFile, report: ApplyReport): Documents {
  const card = documents["README.md"];
  if (card === undefined) return documents;
  const errors = Object.entries(content.figures.relative_errors).map(([kind, error]) => `${kind} ${percent(error)}`);
  const isSame = report.match === "same";
  const note = [
    "## Unpacked from a delta file",
    "",
    `Made by \`readme-moe apply\` from ${content.base.name} and a file of differences from it` +
      (isSame ? "." : `; the weights used differ from that model's by ${percent(report.relative_difference)}.`),
    "The figures above were measured before the model was packed. Packing rounded the differences; the root mean square",
    `error, relative to them, is: ${errors.join(", ")}.`,
  ];
  return { ...documents, "README.md": `${card.trimEnd()}\n\n${note.join("\n")}\n` };
}

/** Checks everything against the base and its sizes at once; weights are decoded when they are written. */
async function tensorsOf(
  delta: DeltaFile,
  base: BaseWeights,
  onTensor: (done: number, of: number) => void,
): Promise<Parameters<typeof writeReadMeFolder>[1]["tensors"]> {
  const { backbone, experts, router, readme } = delta.content;
  const { numLayers, intermediateSize: denseSize } = base.model.config;
  const expert = (layer: number): number => sizeIn(readme.expert_size, layer);
  const shared = (layer: number): number => sizeIn(readme.shared_size, layer);
  const neurons = await delta.neurons({ numLayers, denseSize, expert, shared });
  const context = { delta, base, scales: await delta.scales(base.model.config) };
  const of = backbone.length + experts.flat().length + (router?.length ?? 0);
  let done = 0;
  const inputs = (file: string, part: PartId, entries: readonly Entry[]): readonly SafetensorsInput[] =>
    entries.map((entry) => {
      const { name, shape } = entry;
      const layer = file === "router" ? undefined : ffnLayerOf(name);
      if (entry.coding === "whole") delta.checkInfo(payloadName(file, name), entry.type, shape);
      const bytes = async (): Promise<Uint8Array> => {
        onTensor(done++, of);
        return decodeTensor(context, file, entry, layer === undefined ? undefined : neurons[layer]?.get(part));
      };
      return { name, type: entry.type as SafetensorsInput["type"], shape, bytes };
    });
  return {
    backbone: inputs("backbone", "shared", backbone),
    experts: experts.map((entries, index) => inputs(`experts/${index}`, index, entries)),
    router: router ? inputs("router", "shared", router) : undefined,
  };
}

/** Reads a size that is one number for all layers or a list; -1, which fits no set of neurons, where it is neither. */
function sizeIn(sizes: unknown, layer: number): number {
  const size: unknown = Array.isArray(sizes) ? sizes[layer] : (sizes ?? 0);
  return typeof size === "number" ? size : -1;
}

// A file of a few bytes could ask for any size; no router's table is larger than this.
const MAX_VALUES = 2 ** 28;

/** Data for decoding, besides the entry. */
interface DecodeContext {
  readonly delta: DeltaFile;
  readonly scales: InputScales | undefined;
  readonly base: BaseWeights;
}

/** Decodes the bytes of a tensor. `neurons` are those of the tensor's part, for tensors of an FFN. */
async function decodeTensor(
  { delta, scales, base }: DecodeContext,
  file: string,
  entry: Entry,
  neurons: Int32Array | undefined,
): Promise<Uint8Array> {
  const { name, type, shape } = entry;
  const payload = payloadName(file, name);
  if (entry.coding === "whole") return delta.read(payload);
  if (!isStoredFloat(type)) throw delta.problem(payload, `cannot be coded as ${type}`);
  const inBase = file === "router" ? undefined : await base.inPlaceOf(name, neurons);
  const count = countOf(shape);
  if (count > MAX_VALUES) throw delta.problem(payload, `has ${count} values, more than ${MAX_VALUES}`);
  if (inBase && inBase.length !== count) throw delta.problem(payload, "has another size in the base model");
  if (entry.coding === "base") {
    if (!inBase) throw delta.problem(payload, "is not in the base model");
    return encodeFloats(inBase, type);
  }
  const bytes = await delta.read(payload);
  const sizes = entry.coding === "low-rank" ? await delta.floats(sizesName(file, name)) : undefined;
  if (entry.coding === "low-rank" && sizes?.length !== entry.rank) {
    throw delta.problem(sizesName(file, name), `does not hold ${entry.rank} sizes`);
  }
  const codes = unpackIntegers(bytes, codedCount(shape, entry));
  if (!codes) throw delta.problem(payload, "does not decode");
  const own = scalesOf(scales, { file, name, neurons });
  if (own && own.length !== shape.at(-1)) throw delta.problem(payload, "has another size than its scales");
  const change = scaledColumns(changeOf(shape, entry, codes, sizes), own, "over");
  if (inBase) for (let at = 0; at < count; at++) change[at] = change[at]! + inBase[at]!;
  return encodeFloats(change, type);
}

function codedCount([rows = 1, columns = 1]: readonly number[], how: IntegerCoding): number {
  return how.coding === "steps" ? rows * columns : how.rank * (rows + columns);
}

/** Turns integers into the scaled change `[rows, columns]`. `sizes` are the singular values of `low-rank`. */
export function changeOf(
  [rows = 1, columns = 1]: readonly number[],
  how: IntegerCoding,
  codes: Int16Array,
  sizes: Float32Array = new Float32Array(),
): Float32Array {
  // Indices, since iterators take twice as long over millions of numbers.
  const { step } = how;
  const result = new Float32Array(rows * columns);
  if (how.coding === "steps") {
    for (let at = 0; at < result.length; at++) result[at] = codes[at]! * step;
    return result;
  }
  for (const [k, size] of sizes.entries()) {
    const leftFrom = k * (rows + columns);
    const rightFrom = leftFrom + rows;
    // Both factors are coded times the direction's size.
    const scale = (step * step) / size;
    for (let row = 0; row < rows; row++) {
      const left = codes[leftFrom + row]! * scale;
      const rowFrom = row * columns;
      for (let column = 0; column < columns; column++) {
        result[rowFrom + column] = result[rowFrom + column]! + left * codes[rightFrom + column]!;
      }
    }
  }
  return result;
}
