// Exports a model of a GGUF file in another mix of block types.

import { existsSync } from "node:fs";
import { stat } from "node:fs/promises";
import { ReadMeError } from "@readme-moe/core";
import {
  encodeF16,
  GgufFile,
  type GgufInput,
  type GgufInputValue,
  ggmlTypeOf,
  type InputStatistics,
  type Model,
  type StoredType,
  withFloor,
  writeGguf,
} from "@readme-moe/model";
import { BLOCK_MIXES, type BlockMixName, typeInMix, typeOfWidth } from "../blocks/block-mixes.ts";
import { roundToBlocks } from "../blocks/round-blocks.ts";
import { type DomainText, measureInputs } from "../job/prepare-domain.ts";
import type { ExportedFile, ExportProgress } from "./export-transformersjs.ts";

/** Options of `exportGguf`. */
export interface GgufExportOptions {
  readonly mix: BlockMixName;
  /** Texts whose inputs of products say which columns matter. @default all columns matter the same */
  readonly calibration?: readonly DomainText[] | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: ExportProgress) => void) | undefined;
}

/** Tokens of each text, and of a sequence, that inputs are measured on. */
const CALIBRATION = { calibrationTokens: 4096, sequenceTokens: 512 };
/** Weights that are rounded at once. */
const PIECE_VALUES = 2 ** 22;

/**
 * Writes a model's GGUF file again, with its matrices in a mix of block types. Metadata are those of the file, and so
 * are tensors that have no more bits than the mix gives them: rounding again would lose, and not save.
 *
 * @param model - opened from a GGUF file
 * @param path - a file that does not exist yet
 * @throws {TypeError} for another model; {ReadMeError} `ERR_WRITE_FAILED`
 */
export async function exportGguf(model: Model, path: string, options: GgufExportOptions): Promise<ExportedFile> {
  const [source = ""] = model.files;
  if (!/\.gguf$/i.test(source)) {
    throw new TypeError(`Expected a model in a GGUF file, whose metadata are copied, got ${model.path}`);
  }
  if (existsSync(path)) throw new ReadMeError("ERR_WRITE_FAILED", `${path}: exists already; name another file`);
  const { mix, calibration } = options;
  const file = await GgufFile.open(source);
  try {
    const statistics = calibration && (await measureInputs(model, calibration, CALIBRATION));
    const totals = {
      doneBytes: 0,
      ofBytes: [...file.tensors.values()].reduce((sum, one) => sum + (one.byteLength ?? 0), 0),
    };
    const onBytes = (bytes: number): void => {
      options.signal?.throwIfAborted();
      totals.doneBytes += bytes;
      options.onProgress?.({ file: path, ...totals });
    };
    const context = { file, model, mix, statistics, onBytes };
    await writeGguf(
      path,
      Array.from(file.tensors.keys(), (name) => tensorOf(context, name)),
      await metadataOf(file, mix),
    );
    return { name: path, bytes: (await stat(path)).size };
  } finally {
    await file.close();
  }
}

/** Copies metadata, without how the source was rounded. */
async function metadataOf(file: GgufFile, mix: BlockMixName): Promise<ReadonlyMap<string, GgufInputValue>> {
  const metadata = new Map<string, GgufInputValue>();
  for (const key of file.metadata.keys()) {
    // The writer aligns tensors as files without this key are aligned.
    if (key === "general.alignment" || key.startsWith("quantize.")) continue;
    metadata.set(key, { type: "entry", bytes: await file.readEntry(key) });
  }
  metadata.set("general.file_type", { type: "uint32", value: BLOCK_MIXES[mix].fileType });
  return metadata.set("general.quantization_version", { type: "uint32", value: 2 });
}

interface Context {
  readonly file: GgufFile;
  readonly model: Model;
  readonly mix: BlockMixName;
  readonly statistics: InputStatistics | undefined;
  readonly onBytes: (bytes: number) => void;
}

function tensorOf({ file, model, mix, statistics, onBytes }: Context, name: string): GgufInput {
  const { type: own, shape, byteLength } = file.info(name);
  const { numLayers, numHeads, numKvHeads } = model.config;
  const isHead = name === "output.weight" || (name === "token_embd.weight" && !file.tensors.has("output.weight"));
  const width = shape.at(-1) ?? 1;
  const place = { numLayers, queriesPerKey: numHeads / numKvHeads, isHead };
  const chosen = shape.length < 2 ? undefined : typeInMix(mix, name, place);
  const type = chosen && typeOfWidth(chosen, width);
  if (type === undefined || bitsOf(own) <= bitsOf(type)) {
    const copied = async (): Promise<Uint8Array> => {
      onBytes(byteLength);
      return file.readBytes(name);
    };
    return { name, type: own, shape, bytes: copied };
  }
  const rounded = async (): Promise<Uint8Array> => {
    const product = productOf(name);
    const importance = product === undefined ? undefined : await statistics?.inputSquares(product);
    const columns = importance && withFloor(importance);
    const numRows = shape.slice(0, -1).reduce((product_, size) => product_ * size, 1);
    const rows = Math.max(1, Math.floor(PIECE_VALUES / width));
    const pieces: Uint8Array[] = [];
    for (let from = 0; from < numRows; from += rows) {
      const range = { from, to: Math.min(numRows, from + rows), axes: shape.length - 1 };
      const values = await file.readFloats(name, range);
      pieces.push(type === "F16" ? encodeF16(values) : roundToBlocks(values, type, columns));
      onBytes((byteLength * (range.to - from)) / numRows);
    }
    return Buffer.concat(pieces);
  };
  return { name, type, shape, bytes: rounded };
}

/** Returns the mean number of bits of a value. */
function bitsOf(type: StoredType): number {
  const { blockBytes = 0, blockValues = 1 } = ggmlTypeOf(type) ?? {};
  return (8 * blockBytes) / blockValues;
}

const PRODUCT = /^blk\.(\d+)\.(attn_q|attn_k|attn_v|attn_qkv|attn_output|ffn_gate|ffn_up|ffn_down)\.weight$/;

/** Finds the product that a matrix belongs to, as statistics name it. */
function productOf(name: string): string | undefined {
  const [, layer, part = ""] = PRODUCT.exec(name) ?? [];
  if (layer === undefined) return undefined;
  if (part.startsWith("attn")) return `layers.${layer}.attention.${part === "attn_output" ? "output" : "qkv"}`;
  return `layers.${layer}.ffn${part === "ffn_down" ? ".down" : ""}`;
}
