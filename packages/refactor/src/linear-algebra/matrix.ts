// Matrices: products on the inference runtime, and inverses.

import { GraphBuilder, type Graph } from "../graphs/graph-builder.ts";
import * as operators from "../graphs/operators.ts";
import { GraphSession, type GraphTensor } from "../graphs/session.ts";
import { dependsOnThreads, transposedGemm } from "./deterministic-gemm.ts";

/** Matrix in row-major order, in float64 or rounded to float32. */
export interface Matrix {
  readonly rows: number;
  readonly columns: number;
  readonly data: Float64Array | Float32Array;
}

export function matrix(rows: number, columns: number, data?: ArrayLike<number>): Matrix {
  return { rows, columns, data: data ? new Float64Array(data) : new Float64Array(rows * columns) };
}

/** Makes a matrix of zeros in the precision of another one. */
function alike({ data }: Matrix, rows: number, columns: number): Matrix {
  const length = rows * columns;
  return { rows, columns, data: data instanceof Float64Array ? new Float64Array(length) : new Float32Array(length) };
}

export function transposed(source: Matrix): Matrix {
  const { rows, columns, data } = source;
  const result = alike(source, columns, rows);
  for (let row = 0, at = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++, at++) result.data[column * rows + row] = data[at]!;
  }
  return result;
}

/** Copies the rows and columns with the given indices, in that order. */
export function submatrix(source: Matrix, rows: ArrayLike<number>, columns: ArrayLike<number>): Matrix {
  const result = alike(source, rows.length, columns.length);
  const [from, to] = [source.data, result.data];
  for (let i = 0, at = 0; i < rows.length; i++) {
    const start = rows[i]! * source.columns;
    for (let j = 0; j < columns.length; j++) to[at++] = from[start + columns[j]!]!;
  }
  return result;
}

/** Copies the rows with the given indices, in that order. */
export function rowsOf(source: Matrix, rows: ArrayLike<number>): Matrix {
  const { columns } = source;
  const result = alike(source, rows.length, columns);
  for (let i = 0; i < rows.length; i++) {
    const start = rows[i]! * columns;
    result.data.set(source.data.subarray(start, start + columns), i * columns);
  }
  return result;
}

/** Copies some rows of a table `[rows, width]`, in the order in which they are named. */
export function pickRows(table: Float32Array, rows: ArrayLike<number>, width: number): Float32Array {
  const picked = new Float32Array(rows.length * width);
  for (let index = 0; index < rows.length; index++) {
    const row = rows[index]!;
    picked.set(table.subarray(row * width, (row + 1) * width), index * width);
  }
  return picked;
}

// Plain loops are faster than calls of the runtime up to this size.
const SMALL = 96;

/**
 * Inverts a symmetric positive definite matrix by halves: with `A = [P Q; Qᵀ R]`, the inverse follows from the inverses
 * of `P` and of `R - Qᵀ P⁻¹ Q`, and from products, which do most of the work.
 *
 * @throws {RangeError} when the matrix is not positive definite to the precision of float64
 */
export async function invertPositiveDefinite(a: Matrix, products: Products): Promise<Matrix> {
  const n = a.rows;
  if (n <= SMALL) return invertSmall(a);
  const [first, second] = [
    { from: 0, to: n >> 1 },
    { from: n >> 1, to: n },
  ] as const;
  const q = block(a, first, second);
  const pInverse = await invertPositiveDefinite(block(a, first, first), products);
  const pq = await products.multiply(pInverse, q);
  const schur = symmetric(await products.subtract(block(a, second, second), transposed(q), pq));
  const schurInverse = await invertPositiveDefinite(schur, products);
  const corner = await products.multiply(pq, schurInverse); // -1 times the upper right
  const upperLeft = symmetric(await products.subtract(negated(pInverse), corner, transposed(pq)));
  return assemble(upperLeft, corner, schurInverse);
}

/** Builds `[-upperLeft, -corner; -cornerᵀ, lowerRight]`. */
function assemble(upperLeft: Matrix, corner: Matrix, lowerRight: Matrix): Matrix {
  const half = upperLeft.rows;
  const width = lowerRight.rows;
  const n = half + width;
  const result = alike(corner, n, n);
  const { data } = result;
  for (let i = 0; i < half; i++) {
    for (let j = 0; j < half; j++) data[i * n + j] = -upperLeft.data[i * half + j]!;
    for (let j = 0; j < width; j++) {
      const value = -corner.data[i * width + j]!;
      data[i * n + half + j] = value;
      data[(half + j) * n + i] = value;
    }
  }
  for (let i = 0; i < width; i++) {
    data.set(lowerRight.data.subarray(i * width, (i + 1) * width), (half + i) * n + half);
  }
  return result;
}

interface Range {
  readonly from: number;
  readonly to: number;
}

function block(a: Matrix, rows: Range, columns: Range): Matrix {
  const result = alike(a, rows.to - rows.from, columns.to - columns.from);
  for (let i = 0; i < result.rows; i++) {
    const start = (rows.from + i) * a.columns;
    result.data.set(a.data.subarray(start + columns.from, start + columns.to), i * result.columns);
  }
  return result;
}

function negated({ rows, columns, data }: Matrix): Matrix {
  return { rows, columns, data: data.map((value) => -value) };
}

/** Averages a matrix with its transpose, in place: rounding errors of symmetric products would grow at every level. */
function symmetric(a: Matrix): Matrix {
  const { rows: n, data } = a;
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < i; j++) {
      const mean = (data[i * n + j]! + data[j * n + i]!) / 2;
      data[i * n + j] = mean;
      data[j * n + i] = mean;
    }
  }
  return a;
}

/** Inverts with Cholesky's factor. */
function invertSmall(a: Matrix): Matrix {
  const n = a.rows;
  const l = choleskyFactor(a);
  const result = alike(a, n, n);
  const column = new Float64Array(n);
  for (let k = 0; k < n; k++) {
    column.fill(0);
    column[k] = 1;
    for (let i = k; i < n; i++) {
      let sum = column[i]!;
      for (let j = k; j < i; j++) sum -= l[i * n + j]! * column[j]!;
      column[i] = sum / l[i * n + i]!;
    }
    for (let i = n - 1; i >= k; i--) {
      let sum = column[i]!;
      for (let j = i + 1; j < n; j++) sum -= l[j * n + i]! * column[j]!;
      const value = sum / l[i * n + i]!;
      column[i] = value;
      result.data[i * n + k] = value;
      result.data[k * n + i] = value;
    }
  }
  return result;
}

function choleskyFactor(a: Matrix): Float64Array {
  const n = a.rows;
  const l = new Float64Array(n * n);
  for (let j = 0; j < n; j++) {
    for (let i = j; i < n; i++) {
      let sum = a.data[i * n + j]!;
      for (let k = 0; k < j; k++) sum -= l[i * n + k]! * l[j * n + k]!;
      if (i > j) l[i * n + j] = sum / l[j * n + j]!;
      else if (sum > 0) l[j * n + j] = Math.sqrt(sum);
      else throw new RangeError("Expected a positive definite matrix; a larger ridge makes it one");
    }
  }
  return l;
}

const { Gemm } = operators;

/** Sessions of one operation, for products of all sizes. */
interface Sessions {
  readonly plain: GraphSession;
  /** Session for products whose bits depend on the number of threads. */
  readonly turned: GraphSession;
}

type ProductType = "float64" | "float32";

/**
 * Multiplies matrices in the inference runtime, tens of times as fast as loops in JavaScript. Results are the same for
 * any number of threads up to 16.
 */
export class Products {
  readonly #type: ProductType;
  readonly #multiply: Sessions;
  readonly #subtract: Sessions;
  readonly #rounded: Products | undefined;

  private constructor(type: ProductType, [multiply, subtract]: readonly [Sessions, Sessions], rounded?: Products) {
    this.#type = type;
    this.#multiply = multiply;
    this.#subtract = subtract;
    this.#rounded = rounded;
  }

  static async open(threads?: number): Promise<Products> {
    const open = async (type: ProductType, subtracts: boolean): Promise<Sessions> => ({
      plain: await GraphSession.open(productGraph(type, subtracts, false), { threads }),
      turned: await GraphSession.open(productGraph(type, subtracts, true), { threads }),
    });
    const both = async (type: ProductType) => [await open(type, false), await open(type, true)] as const;
    return new Products("float64", await both("float64"), new Products("float32", await both("float32")));
  }

  /** Products in float32, at twice the speed. */
  get rounded(): Products {
    return this.#rounded ?? this;
  }

  /** Returns `a · b`. */
  async multiply(a: Matrix, b: Matrix): Promise<Matrix> {
    return this.#run(this.#multiply, a, b);
  }

  /** Returns `c - a · b`. */
  async subtract(c: Matrix, a: Matrix, b: Matrix): Promise<Matrix> {
    return this.#run(this.#subtract, a, b, c);
  }

  async #run({ plain, turned }: Sessions, a: Matrix, b: Matrix, c?: Matrix): Promise<Matrix> {
    const { rows, columns: inner } = a;
    const { columns } = b;
    const session = dependsOnThreads({ rows, columns, inner }) ? turned : plain;
    const Numbers = this.#type === "float64" ? Float64Array : Float32Array;
    const feed = (one: Matrix): GraphTensor => ({
      data: one.data instanceof Numbers ? one.data : new Numbers(one.data),
      dims: [one.rows, one.columns],
    });
    const { y } = await session.run({ a: feed(a), b: feed(b), ...(c ? { c: feed(c) } : {}) });
    return { rows, columns, data: y?.data as Matrix["data"] };
  }

  async dispose(): Promise<void> {
    for (const { plain, turned } of [this.#multiply, this.#subtract]) {
      await plain.dispose();
      await turned.dispose();
    }
    await this.#rounded?.dispose();
  }
}

function productGraph(type: ProductType, subtracts: boolean, isTurned: boolean): Graph {
  const g = new GraphBuilder(subtracts ? "subtract" : "multiply");
  const [a, b] = [g.input("a", type, ["m", "k"]), g.input("b", type, ["k", "n"])];
  const bias = subtracts ? g.input("c", type, ["m", "n"]) : undefined;
  const gemm = isTurned ? transposedGemm : Gemm;
  g.output("y", gemm(g, a, b, { bias, transB: false, alpha: subtracts ? -1 : 1 }), type, ["m", "n"]);
  return g.build();
}
