// MXFP4 as compressed-tensors stores it (`mxfp4-pack-quantized`). Source: compressors/mxfp4/base.py, mx_utils.py and
// nvfp4/helpers.py in that package.

import { allocateFor, corrupt, quoted, unsupported } from "../files/errors.ts";
import { BLOCK_VALUES } from "../gguf/dequantize.ts";
import { dequantizeMXFP4, MXFP4_BLOCK_BYTES } from "../gguf/level-blocks.ts";
import type { RowRange, TensorInfo, TensorStore } from "../tensor-store.ts";

const CODES = "_packed";
const SCALES = "_scale";
/** Tensors that other formats have besides, which change the numbers. */
const FURTHER = ["_zero_point", "_global_scale", "_g_idx"] as const;

const CODE_BYTES = BLOCK_VALUES / 2;

/** Finds the weights in MXFP4; a store without any is returned as it is. @throws {ReadMeError} as the constructor */
export function mxfp4Tensors(store: TensorStore): TensorStore {
  const names = store.names.filter((name) => name.endsWith(`.weight${CODES}`));
  return names.length > 0 ? new Mxfp4Tensors(store, names) : store;
}

/**
 * Store in which `X.weight`, in GGUF's blocks of MXFP4, replaces two tensors of bytes: `X.weight_packed`
 * `[rows, columns / 2]`, whose low halves are even columns, and `X.weight_scale` `[rows, columns / 32]`, the exponents.
 * All others keep their names.
 */
class Mxfp4Tensors implements TensorStore {
  readonly path: string;
  readonly names: readonly string[];
  readonly #store: TensorStore;
  readonly #weights: ReadonlyMap<string, TensorInfo>;

  /**
   * @param codes - names of the tensors with the codes
   * @throws {ReadMeError} `ERR_FILE_CORRUPT` naming a tensor of another type or shape, or without scales;
   *   `ERR_MODEL_UNSUPPORTED` naming a tensor that MXFP4 does not have
   */
  constructor(store: TensorStore, codes: readonly string[]) {
    const weights = codes.map((name) => weightOf(store, name.slice(0, -CODES.length)));
    const replaced = new Set(weights.flatMap(({ name }) => [name + CODES, name + SCALES]));
    this.path = store.path;
    this.names = [...store.names.filter((name) => !replaced.has(name)), ...weights.map(({ name }) => name)];
    this.#store = store;
    this.#weights = new Map(weights.map((info) => [info.name, info]));
  }

  has(name: string): boolean {
    return this.#weights.has(name) || this.#store.has(name);
  }

  info(name: string): TensorInfo {
    return this.#weights.get(name) ?? this.#store.info(name);
  }

  async readBytes(name: string, rows?: RowRange): Promise<Uint8Array> {
    if (!this.#weights.has(name)) return this.#store.readBytes(name, rows);
    const [codes, scales] = await Promise.all([
      this.#store.readBytes(name + CODES, rows),
      this.#store.readBytes(name + SCALES, rows),
    ]);
    return allocateFor(`${this.path}: tensor ${quoted(name)}`, () => blocksOf(codes, scales));
  }

  async readFloats(name: string, rows?: RowRange): Promise<Float32Array> {
    if (!this.#weights.has(name)) return this.#store.readFloats(name, rows);
    const blocks = await this.readBytes(name, rows);
    return allocateFor(`${this.path}: tensor ${quoted(name)}`, () => dequantizeMXFP4(blocks));
  }

  async close(): Promise<void> {
    await this.#store.close();
  }
}

/** Checks the tensors of a weight, and describes the weight. */
function weightOf(store: TensorStore, name: string): TensorInfo {
  const { path } = store;
  const further = FURTHER.map((ending) => name + ending).find((other) => store.has(other));
  if (further !== undefined) {
    throw unsupported(path, `tensor ${quoted(further)} is none of MXFP4, the only packed format that is read`);
  }
  if (store.has(name)) throw corrupt(path, `holds both ${quoted(name)} and ${quoted(name + CODES)}`);
  if (!store.has(name + SCALES)) throw corrupt(path, `tensor ${quoted(name + CODES)} has no ${quoted(name + SCALES)}`);
  const [codes, scales] = [store.info(name + CODES), store.info(name + SCALES)];
  for (const { name: part, type } of [codes, scales]) {
    if (type !== "U8") throw corrupt(path, `tensor ${quoted(part)} holds ${type}, but MXFP4 has bytes`);
  }
  const [rows = 0, groups = 0] = scales.shape;
  const expected = [rows, CODE_BYTES * groups];
  if (scales.shape.length !== 2 || codes.shape.join() !== expected.join()) {
    const shapes = `[${codes.shape.join(", ")}] and its scales [${scales.shape.join(", ")}]`;
    throw corrupt(path, `tensor ${quoted(name + CODES)} has the shape ${shapes}, which are no blocks of MXFP4`);
  }
  const shape = [rows, BLOCK_VALUES * groups];
  return { name, type: "MXFP4", shape, byteLength: MXFP4_BLOCK_BYTES * scales.byteLength };
}

/**
 * Puts each scale before its codes. A byte of a block has values i and i + 16, where one of the file has 2i and 2i + 1.
 *
 * @param scales - one for each 16 bytes of `codes`
 */
function blocksOf(codes: Uint8Array, scales: Uint8Array): Uint8Array {
  const blocks = new Uint8Array(MXFP4_BLOCK_BYTES * scales.length);
  const from = new DataView(codes.buffer, codes.byteOffset, codes.byteLength);
  const to = new DataView(blocks.buffer);
  for (let block = 0; block < scales.length; block++) {
    const at = MXFP4_BLOCK_BYTES * block;
    blocks[at] = scales[block]!;
    // Two bytes at once are twice as fast as one.
    for (let i = 0; i < CODE_BYTES / 2; i += 2) {
      const low = from.getUint16(CODE_BYTES * block + i, true);
      const high = from.getUint16(CODE_BYTES * block + CODE_BYTES / 2 + i, true);
      const even = (low & 0x0f0f) | ((high & 0x0f0f) << 4);
      const odd = ((low >>> 4) & 0x0f0f) | (high & 0xf0f0);
      to.setUint16(at + 1 + 2 * i, (even & 0xff) | ((odd & 0xff) << 8), true);
      to.setUint16(at + 3 + 2 * i, (even >>> 8) | (odd & 0xff00), true);
    }
  }
  return blocks;
}
