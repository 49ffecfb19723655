// A Read-ME model folder from an adapter file and the dense model that it changes.

import { randomUUID } from "node:crypto";
import { rm } from "node:fs/promises";
import { basename, dirname, join, resolve, sep } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { baseFiles, openModel, writeReadMeFolder, type Model, type SafetensorsInput } from "@readme-moe/model";
import { finishFolder, refuseOccupied } from "../job/work-folder.ts";
import { basePrint, compareBases, type BaseMatch } from "./base-print.ts";
import { BaseWeights, ffnLayerOf } from "./base-weights.ts";
import { FORMAT, type BaseNote, type Entry } from "./content.ts";
import type { Documents } from "./documents.ts";
import { checkWhole, decodeTensor, type TensorType } from "./decode-tensor.ts";
import { AdapterFile } from "./open-adapter.ts";
import type { PartId } from "./part-neurons.ts";

/** Of `applyAdapter`. */
export interface ApplyOptions {
  /** Hears of a base model in another precision than the adapter was made for. */
  readonly onWarning?: ((message: string) => void) | undefined;
  readonly onProgress?: ((progress: { readonly done: number; readonly of: number }) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** What the file was applied to, and how well that fits. */
export interface ApplyReport {
  readonly base: BaseNote;
  /** The base's weights are those that the adapter was made for, or the same in another precision. */
  readonly match: Exclude<BaseMatch["kind"], "other">;
  /** Root mean square over tensors of their relative difference from those; 0 where they are the same. */
  readonly relative_difference: number;
}

/**
 * Writes the Read-ME folder that an adapter file makes of a dense model. It is there whole or not at all.
 *
 * @param path - the adapter file
 * @param base - of the kind `dense`
 * @param out - a folder that does not exist yet, or is empty
 * @throws {ReadMeError} `ERR_FILE_CORRUPT` naming file and tensor; `ERR_MODEL_UNSUPPORTED` for another base model;
 *   `ERR_WRITE_FAILED`
 */
export async function applyAdapter(
  path: string,
  base: Model,
  out: string,
  { onWarning, onProgress, signal }: ApplyOptions = {},
): Promise<ApplyReport> {
  await refuseOccupied(out);
  if (base.kind !== "dense") {
    throw new ReadMeError("ERR_MODEL_UNSUPPORTED", `${base.path}: is no dense model, as an adapter file changes`);
  }
  const adapter = await AdapterFile.open(path);
  const staging = join(dirname(resolve(out)), `.${basename(resolve(out))}-${randomUUID()}.tmp`);
  try {
    await adapter.check();
    const weights = new BaseWeights(base);
    const match = compareBases(await adapter.basePrint(), await basePrint(weights));
    const report = acceptBase(adapter, base, match, onWarning);
    const tensors = await tensorsOf(adapter, weights, (done, of) => {
      signal?.throwIfAborted();
      onProgress?.({ done, of });
    });
    const { config, texts } = await baseFiles(base);
    const readme = { ...adapter.content.readme, provenance: provenanceOf(adapter, report) };
    const documents = { ...texts, ...withNote(await adapter.documents(), adapter, report) };
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
    await adapter.close();
  }
}

/** What was met while writing may be the file's fault: what its tensors decode to, or lists that no folder can have. */
function faultOf(path: string, error: unknown): unknown {
  if (!(error instanceof ReadMeError) || error.code !== "ERR_WRITE_FAILED") return error;
  const { cause } = error;
  if (cause instanceof ReadMeError) return cause;
  if (!(cause instanceof TypeError || cause instanceof RangeError)) return error;
  return new ReadMeError("ERR_FILE_CORRUPT", `${path}: describes no model: ${cause.message}`, { cause });
}

/** What a file says of its own model has to hold. */
async function checkModel(path: string, folder: string): Promise<void> {
  try {
    await (await openModel(folder)).close();
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message.replaceAll(`${folder}${sep}`, "") : String(cause);
    throw new ReadMeError("ERR_FILE_CORRUPT", `${path}: makes no whole model: ${reason}`, { cause });
  }
}

function acceptBase(
  { path, content }: AdapterFile,
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
    `${base.path} is not ${wanted} to the bit, but near: ${match.numDifferent} tensors differ, weights by ` +
      `${percent(difference)} on average, as in another precision. The quality is another than was measured; ` +
      "`readme-moe eval` tells which.",
  );
  return { base: content.base, match: "near", relative_difference: difference };
}

function percent(share: number): string {
  return `${(100 * share).toPrecision(2)} %`;
}

function provenanceOf(
  { content }: AdapterFile,
  { relative_difference }: ApplyReport,
): Readonly<Record<string, unknown>> {
  const { base, figures, readme } = content;
  return { ...readme.provenance, packed: { format: FORMAT, base, base_difference: relative_difference, ...figures } };
}

/** The card's figures are those of the model that was packed. */
function withNote(documents: Documents, { content }: AdapterFile, report: ApplyReport): Documents {
  const card = documents["README.md"];
  if (card === undefined) return documents;
  const errors = Object.entries(content.figures.relative_errors).map(([kind, error]) => `${kind} ${percent(error)}`);
  const note = [
    "## Unpacked from an adapter file",
    "",
    `Made by \`readme-moe apply\` from changes to ${content.base.name}` +
      (report.match === "same"
        ? "."
        : `, with weights that differ from its by ${percent(report.relative_difference)}.`),
    "What is written above was measured before the model was packed. Packing rounded the changes; what is lost of them, root",
    `mean square: ${errors.join(", ")}.`,
  ];
  return { ...documents, "README.md": `${card.trimEnd()}\n\n${note.join("\n")}\n` };
}

/** Everything is checked against base and sizes at once; weights are decoded when they are written. */
async function tensorsOf(
  adapter: AdapterFile,
  base: BaseWeights,
  onTensor: (done: number, of: number) => void,
): Promise<Parameters<typeof writeReadMeFolder>[1]["tensors"]> {
  const { backbone, experts, router, readme } = adapter.content;
  const { numLayers, intermediateSize } = base.model.config;
  const neurons: ReadonlyMap<PartId, Int32Array>[] = [];
  for (let layer = 0; layer < numLayers; layer++) {
    const sizes = { expert: sizeIn(readme.expert_size, layer), shared: sizeIn(readme.shared_size, layer) };
    neurons.push(await adapter.neurons(layer, numLayers, intermediateSize, sizes));
  }
  const [tables, scales] = [await adapter.tables(), await adapter.scales(base.model.config)];
  const of = backbone.length + experts.flat().length + (router?.length ?? 0);
  let done = 0;
  const inputs = (file: string, part: PartId, entries: readonly Entry[]): readonly SafetensorsInput[] =>
    entries.map((entry) => {
      const layer = file === "router" ? undefined : ffnLayerOf(entry.name);
      if (entry.coding === "whole") checkWhole(adapter, file, entry);
      const bytes = async (): Promise<Uint8Array> => {
        onTensor(done++, of);
        const own = layer === undefined ? undefined : neurons[layer]?.get(part);
        return decodeTensor(adapter, tables, scales, base, file, entry, own);
      };
      return { name: entry.name, type: entry.type as TensorType, shape: entry.shape, bytes };
    });
  return {
    backbone: inputs("backbone", "shared", backbone),
    experts: experts.map((entries, expert) => inputs(`experts/${expert}`, expert, entries)),
    router: router ? inputs("router", "shared", router) : undefined,
  };
}

/** Of one size for all layers or one for each; -1, which no set of neurons has, where it is neither. */
function sizeIn(sizes: unknown, layer: number): number {
  const size: unknown = Array.isArray(sizes) ? sizes[layer] : (sizes ?? 0);
  return typeof size === "number" ? size : -1;
}
