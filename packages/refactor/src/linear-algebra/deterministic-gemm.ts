// Matrix products with the same bits for any number of threads up to 16.
//
// The runtime divides a product that is wider than high by columns, and a thread with few of them adds up longer pieces
// of the inner axis at a time. Products that are divided by rows have fixed pieces.

import * as operators from "../graphs/operators.ts";
import type { GraphBuilder, Value } from "../graphs/graph-builder.ts";

const { Add, Gemm, Transpose } = operators;

/** Size of a product. */
export interface ProductSize {
  readonly rows: number;
  readonly columns: number;
  /** Length of the sums. */
  readonly inner: number;
}

/** Length of the pieces that sums are made of; a shorter sum is one piece for any number of threads. */
const PIECE = 128;
/** Columns of a thread from which its pieces are `PIECE` long, rounded to the blocks that columns are dealt in. */
const THREAD_COLUMNS = 80;
const MOST_THREADS = 16;

/** Columns from which a product needs no care. */
export const STEADY_COLUMNS: number = THREAD_COLUMNS * MOST_THREADS;

/** Tells whether a product's bits depend on the number of threads, up to `MOST_THREADS`. */
export function dependsOnThreads({ rows, columns, inner }: ProductSize): boolean {
  return rows < columns && inner > PIECE && columns < STEADY_COLUMNS;
}

interface GemmOptions {
  readonly bias?: Value | undefined;
  /** @default true */
  readonly transB?: boolean;
  /** @default 1 */
  readonly alpha?: number;
}

interface SteadyOptions extends GemmOptions {
  /** Size of the product; one of unknown size is left as it is. */
  readonly size: ProductSize | undefined;
}

/** Computes `alpha · x · wᵀ + bias`, or `alpha · x · w + bias` without `transB`. */
export function deterministicGemm(g: GraphBuilder, x: Value, w: Value, { size, ...options }: SteadyOptions): Value {
  return size && dependsOnThreads(size) ? transposedGemm(g, x, w, options) : Gemm(g, x, w, options);
}

/** Computes the same as `Gemm`, as the transpose of a product that is high. */
export function transposedGemm(
  g: GraphBuilder,
  x: Value,
  w: Value,
  { bias, transB = true, alpha = 1 }: GemmOptions,
): Value {
  const product = Transpose(g, Gemm(g, w, x, { transA: !transB, alpha }), [1, 0]);
  return bias ? Add(g, product, bias) : product;
}
