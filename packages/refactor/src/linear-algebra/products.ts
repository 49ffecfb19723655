import * as operators from "../graphs/operators.ts";
import { GraphBuilder, type Graph } from "../graphs/graph-builder.ts";
import { GraphSession, type Feeds, type GraphTensor } from "../graphs/session.ts";
import type { Matrix } from "./matrix.ts";
import { dependsOnThreads, turnedGemm } from "./steady-gemm.ts";

const { Gemm } = operators;

/** Sessions of one operation, for products of all sizes. */
interface Sessions {
  readonly plain: GraphSession;
  /** Session for products whose bits depend on the number of threads. */
  readonly turned: GraphSession;
}

/**
 * Multiplies float64 matrices in the inference runtime, tens of times as fast as loops in JavaScript. Results are the
 * same for any number of threads up to 16.
 */
export class Products {
  readonly #multiply: Sessions;
  readonly #subtract: Sessions;

  private constructor(multiply: Sessions, subtract: Sessions) {
    this.#multiply = multiply;
    this.#subtract = subtract;
  }

  static async open(threads?: number): Promise<Products> {
    const open = async (subtracts: boolean): Promise<Sessions> => ({
      plain: await GraphSession.open(productGraph(subtracts, false), { threads }),
      turned: await GraphSession.open(productGraph(subtracts, true), { threads }),
    });
    return new Products(await open(false), await open(true));
  }

  /** Returns `a · b`. */
  async multiply(a: Matrix, b: Matrix): Promise<Matrix> {
    return run(this.#multiply, a, b, {});
  }

  /** Returns `c - a · b`. */
  async subtract(c: Matrix, a: Matrix, b: Matrix): Promise<Matrix> {
    return run(this.#subtract, a, b, { c: feed(c) });
  }

  async dispose(): Promise<void> {
    for (const { plain, turned } of [this.#multiply, this.#subtract]) {
      await plain.dispose();
      await turned.dispose();
    }
  }
}

function productGraph(subtracts: boolean, isTurned: boolean): Graph {
  const g = new GraphBuilder(subtracts ? "subtract" : "multiply");
  const [a, b] = [g.input("a", "float64", ["m", "k"]), g.input("b", "float64", ["k", "n"])];
  const bias = subtracts ? g.input("c", "float64", ["m", "n"]) : undefined;
  const gemm = isTurned ? turnedGemm : Gemm;
  g.output("y", gemm(g, a, b, { bias, transB: false, alpha: subtracts ? -1 : 1 }), "float64", ["m", "n"]);
  return g.build();
}

async function run({ plain, turned }: Sessions, a: Matrix, b: Matrix, more: Feeds): Promise<Matrix> {
  const { rows, columns: inner } = a;
  const { columns } = b;
  const session = dependsOnThreads({ rows, columns, inner }) ? turned : plain;
  const { y } = await session.run({ a: feed(a), b: feed(b), ...more });
  return { rows, columns, data: y?.data as Float64Array };
}

function feed({ rows, columns, data }: Matrix): GraphTensor {
  return { data, dims: [rows, columns] };
}
