// A product outside of models whose weights do not change, for trainings: forwards, and backwards by its transpose.

import { messageOf, ReadMeError } from "@readme-moe/core";
import type { LinearRefs } from "@readme-moe/model";
import { type Addon, loadAddon, NativeWeights } from "./native-kernel.ts";
import { formatNumber, isBlockType, type PackedTensor } from "./pack/block-types.ts";
import { fileTypeOf, packFile, packInt8, transposedInt8 } from "./pack/pack-product.ts";
import { aligned, tensorPieces, UNIT_BYTES } from "./pack/packed-file.ts";

/**
 * Threads that multiply, one product at a time. The process keeps memory that it frees from then on: each product has
 * outputs of its own, and the system would zero their pages again and again.
 */
export class ProductTeam {
  readonly threads: number;
  readonly addon: Addon;
  readonly handle: object;
  readonly instructions: string;

  /** @throws {ReadMeError} `ERR_RUNTIME` where the kernel has no addon */
  constructor(threads: number) {
    this.threads = threads;
    try {
      this.addon = loadAddon();
    } catch (cause) {
      const why = `Frozen products need the kernel's addon, which does not load: ${messageOf(cause)}`;
      throw new ReadMeError("ERR_RUNTIME", why, { cause });
    }
    this.handle = this.addon.startTeam(threads);
    this.addon.keepFreeMemory();
    this.instructions = this.addon.instructionSets()[0] ?? "plain";
  }

  /** Ends the threads. */
  close(): void {
    this.addon.endTeam(this.handle);
  }
}

/** Options of `FrozenProduct.open`. */
export interface FrozenProductOptions {
  /** Whether the transpose is packed, too. */
  readonly hasGradients: boolean;
}

/** Weights that are packed in memory. Calls block their thread. */
export class FrozenProduct {
  readonly numOut: number;
  readonly numIn: number;
  readonly #forward: PackedRows;
  readonly #backward: PackedRows | undefined;

  private constructor(forward: PackedRows, backward: PackedRows | undefined) {
    this.numOut = forward.tensor.numOut;
    this.numIn = forward.tensor.numIn;
    this.#forward = forward;
    this.#backward = backward;
  }

  /**
   * Packs weights: blocks as the file has them, other types in 8 bits; the transpose in 8 bits. Inputs are rounded to 8
   * bits in groups of 32, as in steps. The bits do not depend on the number of threads.
   */
  static async open(
    team: ProductTeam,
    refs: LinearRefs,
    { hasGradients }: FrozenProductOptions,
  ): Promise<FrozenProduct> {
    const type = fileTypeOf(refs.weight);
    const tensor = type !== undefined && isBlockType(type) ? packFile(refs, type) : packInt8(refs);
    const forward = await PackedRows.pack(team, tensor);
    if (!hasGradients) return new FrozenProduct(forward, undefined);
    const { store, name } = refs.weight;
    const transpose = transposedInt8(await store.readFloats(name), forward.tensor.numOut);
    return new FrozenProduct(forward, await PackedRows.pack(team, transpose));
  }

  /** Computes outputs `[rows, numOut]`. @param inputs - `[rows, numIn]` */
  forward(inputs: Float32Array): Float32Array {
    return this.#forward.multiply(inputs);
  }

  /**
   * Computes gradients of inputs `[rows, numIn]`.
   *
   * @param gradients - of outputs, `[rows, numOut]`
   * @throws {TypeError} when the product was opened without gradients
   */
  backward(gradients: Float32Array): Float32Array {
    if (!this.#backward) throw new TypeError("Expected a product with gradients, got one without");
    return this.#backward.multiply(gradients);
  }
}

/** One packed tensor. */
class PackedRows {
  readonly tensor: PackedTensor;
  readonly #team: ProductTeam;
  readonly #weights: NativeWeights;
  readonly #numbers: Int32Array;

  private constructor(team: ProductTeam, tensor: PackedTensor, weights: NativeWeights) {
    const { format, numOut, numIn, weightBytes, scaleBytes, biasBytes } = tensor;
    this.tensor = tensor;
    this.#team = team;
    this.#weights = weights;
    const scalesAt = aligned(weightBytes) / UNIT_BYTES;
    const biasAt = scalesAt + aligned(scaleBytes) / UNIT_BYTES;
    const places = [0, scaleBytes > 0 ? scalesAt : -1, biasBytes > 0 ? biasAt : -1];
    this.#numbers = Int32Array.of(formatNumber(format), numOut, numIn, ...places);
  }

  static async pack(team: ProductTeam, tensor: PackedTensor): Promise<PackedRows> {
    const sizes = [tensor.weightBytes, tensor.scaleBytes, tensor.biasBytes];
    const numBytes = sizes.reduce((sum, bytes) => sum + aligned(bytes), 0);
    const weights = await NativeWeights.fill(team.addon, numBytes, tensorPieces(tensor), team.threads);
    return new PackedRows(team, tensor, weights);
  }

  multiply(rows: Float32Array): Float32Array {
    const { numOut, numIn } = this.tensor;
    const { addon, handle, instructions } = this.#team;
    const outputs = new Float32Array((rows.length / numIn) * numOut);
    if (rows.length > 0) {
      addon.multiplyRows(handle, this.#weights.handle, instructions, this.#numbers, rows, outputs);
    }
    return outputs;
  }
}
