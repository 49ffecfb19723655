// Packs weights of products panel by panel: a vector of the processor holds the same inputs of neighbouring outputs.

import {
  blockLayoutOf,
  type BlockSource,
  type BlockWeights,
  type InputStatistics,
  type LinearRefs,
  type TensorRef,
} from "@readme-moe/model";
import {
  type BlockTypeName,
  bytesOf,
  formatNumber,
  GROUP,
  isBlockType,
  isShortType,
  nothing,
  type PackedTensor,
  PANEL,
  productBytes,
  type ProductFormat,
  type RowsToPack,
  type ShortType,
  wholeGroups,
  wholePanels,
} from "./block-types.ts";

/** Size of rows that are read and packed at once. */
const CHUNK_BYTES = 4 << 20;
const NONE = new Float32Array(0);

/** Types whose bits the kernel multiplies with. */
export type FileType = BlockTypeName | ShortType;

/** Returns the type of a file's weights, if the kernel multiplies with their bits. */
export function fileTypeOf({ store, name, shape: [, numIn = 0] }: TensorRef): FileType | undefined {
  const { type } = store.info(name);
  if (isShortType(type)) return type;
  const layout = blockLayoutOf(type);
  return layout && isBlockType(type) && numIn > 0 && numIn % layout.values === 0 ? type : undefined;
}

/** Packs a product's weights in the bits of their file. @param type - see `fileTypeOf` */
export function packFile(refs: LinearRefs, type: FileType): PackedTensor {
  return packUnscaled(refs, type);
}

/** Packs weights in float32. @param inputs - factors of the inputs, by which weights are divided */
export function packFloat(refs: LinearRefs, inputs?: InputFactors): PackedTensor {
  return packUnscaled(refs, "float", inputs);
}

function packUnscaled({ weight, bias }: LinearRefs, format: FileType | "float", inputs?: InputFactors): PackedTensor {
  const [numOut = 0, numIn = 0] = weight.shape;
  return {
    ...sizes(format, numOut, numIn, bias),
    scaleBytes: 0,
    stored: format === "float" || bias ? undefined : weight,
    parts: () => ({
      weights: () => rowsToPack(weight, format, { inputs, scales: NONE }),
      scales: nothing,
      bias: () => paddedBias(bias, numOut),
    }),
  };
}

/** Factors that move between a product and its neighbours; see `inputFactors`. */
export interface ProductFactors {
  /** Factors of the product's inputs, by which its weights are divided. */
  readonly inputs?: InputFactors | undefined;
  /** Factors by which the product's outputs are multiplied. */
  readonly outputs?: InputFactors | undefined;
}

/** Packs int8 weights with one scale per output: the largest magnitude of a row becomes 127. */
export function packInt8({ weight, bias }: LinearRefs, { inputs, outputs }: ProductFactors = {}): PackedTensor {
  const [numOut = 0, numIn = 0] = weight.shape;
  return {
    ...sizes("int8", numOut, numIn, bias),
    scaleBytes: wholePanels(numOut) * PANEL * 4,
    parts: () => {
      const scales = new Float32Array(wholePanels(numOut) * PANEL);
      return {
        weights: () => rowsToPack(weight, "int8", { inputs, scales: scales.subarray(0, numOut) }),
        scales: () => multiplied(scales, outputs),
        bias: () => paddedBias(bias, numOut, outputs),
      };
    },
  };
}

/** Packs the transpose of weights `[numOut, numIn]` in int8. */
export function transposedInt8(weights: Float32Array, numOut: number): PackedTensor {
  const numIn = weights.length / numOut;
  const scaleBytes = wholePanels(numIn) * PANEL * 4;
  return {
    ...sizes("int8", numIn, numOut, undefined),
    scaleBytes,
    parts: () => {
      const scales = new Float32Array(scaleBytes / 4);
      return {
        async *weights() {
          for (let from = 0; from < numIn; from += PANEL) {
            const to = Math.min(from + PANEL, numIn);
            const columns = new Float32Array((to - from) * numOut);
            for (let row = 0; row < numOut; row++) {
              for (let i = from; i < to; i++) columns[(i - from) * numOut + row] = weights[row * numIn + i]!;
            }
            const numbers = { format: formatNumber("int8"), source: formatNumber("float"), numIn: numOut };
            const byteLength = productBytes("int8", to - from, numOut);
            yield { ...numbers, rows: bytesOf(columns), inputs: NONE, scales: scales.subarray(from, to), byteLength };
          }
        },
        scales: async () => bytesOf(scales),
        bias: nothing,
      };
    },
  };
}

/** Yields rows that the kernel packs: as the file has them, or in float32 if it cannot read their type. */
async function* rowsToPack(
  weight: TensorRef,
  format: ProductFormat,
  { inputs, scales }: { readonly inputs: InputFactors | undefined; readonly scales: Float32Array },
): AsyncGenerator<RowsToPack> {
  const {
    store,
    name,
    shape: [numOut = 0, numIn = 0],
  } = weight;
  const { type, byteLength } = store.info(name);
  const source = fileTypeOf(weight) ?? "float";
  const isDecoded = source !== type && type !== "F32";
  const rowBytes = isDecoded ? 4 * numIn : byteLength / numOut;
  const numRows = Math.max(1, Math.floor(CHUNK_BYTES / rowBytes / PANEL)) * PANEL;
  const read = async (from: number): Promise<Uint8Array> => {
    const range = { from, to: Math.min(from + numRows, numOut) };
    return isDecoded ? bytesOf(await store.readFloats(name, range)) : store.readBytes(name, range);
  };
  const numbers = { format: formatNumber(format), source: formatNumber(source), numIn };
  const factors = (await inputs?.()) ?? NONE;
  // The next rows are read while the kernel packs the last ones.
  let next = read(0);
  for (let from = 0; from < numOut; from += numRows) {
    const rows = await next;
    const to = Math.min(from + numRows, numOut);
    if (to < numOut) next = read(to);
    // A failure is thrown when the rows are needed.
    next.catch(() => undefined);
    const ownScales = scales.subarray(from, to);
    yield { ...numbers, rows, inputs: factors, scales: ownScales, byteLength: productBytes(format, to - from, numIn) };
  }
}

function sizes<Format extends ProductFormat>(
  format: Format,
  numOut: number,
  numIn: number,
  bias: TensorRef | undefined,
): Pick<PackedTensor, "numOut" | "numIn" | "weightBytes" | "biasBytes"> & { readonly format: Format } {
  const biasBytes = bias ? wholePanels(numOut) * PANEL * 4 : 0;
  return { format, numOut, numIn, weightBytes: productBytes(format, numOut, numIn), biasBytes };
}

async function paddedBias(bias: TensorRef | undefined, numOut: number, factors?: InputFactors): Promise<Uint8Array> {
  if (!bias) return nothing();
  const padded = new Float32Array(wholePanels(numOut) * PANEL);
  padded.set(await bias.store.readFloats(bias.name));
  return multiplied(padded, factors);
}

/** Multiplies outputs by their factors, of which whole panels have more. */
async function multiplied(outputs: Float32Array, factors: InputFactors | undefined): Promise<Uint8Array> {
  const each = await factors?.();
  return bytesOf(each ? outputs.map((output, i) => output * (each[i] ?? 1)) : outputs);
}

// Packs blocks that are no rows of a file: those of ONNX graphs, and fitted ones.

/** @param source - 4 or 8 bits in blocks of 16, or of a multiple of 32 */
export function packBlocks(source: BlockSource, bias: TensorRef | undefined): PackedTensor {
  const { numOut, numIn, format } = source;
  const block = format.blockSize === 16 ? 16 : 32;
  const hasMinimums = format.bits === 4 && format.hasOffsets;
  const quantBytes = (GROUP * PANEL * format.bits) / 8;
  const scaleFloats = (GROUP / block) * PANEL;
  const groupBytes = quantBytes + scaleFloats * 4 * (hasMinimums ? 2 : 1);
  const panelBytes = wholeGroups(numIn) * groupBytes;
  return {
    ...sizes(nameOf(format.bits, block, hasMinimums), numOut, numIn, bias),
    scaleBytes: 0,
    parts: () => ({
      async *weights() {
        const weights = await source.read();
        for (let panel = 0; panel < wholePanels(numOut); panel++) {
          const packed = new Uint8Array(panelBytes);
          const floats = new Float32Array(packed.buffer);
          if (format.bits === 8) fillMiddle(packed, groupBytes, quantBytes);
          for (let row = 0; row < Math.min(PANEL, numOut - panel * PANEL); row++) {
            const first = (panel * PANEL + row) * numIn;
            for (let i = 0; i < numIn; i++) {
              const start = Math.floor(i / GROUP) * groupBytes;
              const quant = weights.quants[first + i]!;
              if (format.bits === 4) packNibble(packed, start + placeOf(i & 15, row), quant, i & 16);
              else packed[start + placeOf(i % GROUP, row)] = quant;
            }
            for (let from = 0; from < numIn; from += block) {
              const at = (Math.floor(from / GROUP) * groupBytes + quantBytes) / 4;
              const place = at + ((from % GROUP) / block) * PANEL + row;
              const { scale, minimum } = blockAt(weights, first + from);
              floats[place] = scale;
              if (hasMinimums) floats[place + scaleFloats] = minimum;
            }
          }
          yield packed;
        }
      },
      scales: nothing,
      bias: () => paddedBias(bias, numOut),
    }),
  };
}

function nameOf(bits: 4 | 8, block: 16 | 32, hasMinimums: boolean): BlockTypeName {
  if (bits === 8) return block === 16 ? "INT8_16" : "INT8_32";
  if (hasMinimums) return block === 16 ? "INT4_MINIMUM_16" : "INT4_MINIMUM_32";
  return block === 16 ? "INT4_16" : "INT4_32";
}

function blockAt({ blockSize, scales, offsets, hasOffsets }: BlockWeights, index: number) {
  const block = Math.floor(index / blockSize);
  const scale = scales[block]!;
  // Offsets are relative to the middle of the integers.
  return { scale, minimum: hasOffsets ? offsets[block]! - 8 * scale : 0 };
}

/** Returns the offset of input `i` of a panel's output `row`, with inputs in groups of four. */
function placeOf(i: number, row: number): number {
  return (i >>> 2) * 4 * PANEL + row * 4 + (i & 3);
}

/** Puts inputs 0 to 15 of a group into the low halves of bytes, and inputs 16 to 31 into the high ones. */
function packNibble(packed: Uint8Array, place: number, quant: number, isHigh: number): void {
  packed[place] = packed[place]! | (isHigh ? quant << 4 : quant);
}

function fillMiddle(packed: Uint8Array, groupBytes: number, quantBytes: number): void {
  for (let start = 0; start < packed.length; start += groupBytes) packed.fill(128, start, start + quantBytes);
}

// Rounding to 8 bits loses most when some inputs are far larger than others of their group. The operation before a
// product can make them smaller, and the product's weights as much larger, with no other change (SmoothQuant, arXiv
// 2211.10438, equation 3).

/** Factors of the inputs of a product, `[in]`, by which its weights are divided. */
export type InputFactors = () => Promise<Float32Array>;

// Limits the factors of inputs that the tokens never used.
const LEAST = 1e-4;

/** Computes the factors of `product`: the inverse fourth root of each input's size relative to the others. */
export function inputFactors(calibration: InputStatistics, product: string): InputFactors {
  return async () => {
    const squares = await calibration.inputSquares(product);
    const mean = squares.reduce((sum, square) => sum + square, 0) / squares.length;
    if (!(mean > 0 && mean < Infinity)) return squares.map(() => 1);
    // Square roots are exact to the last bit on every platform, powers are not.
    return squares.map((square) => 1 / Math.sqrt(Math.sqrt(Math.sqrt(Math.max(square / mean, LEAST)))));
  };
}
