import type { GraphBuilder, Value } from "../onnx/graph-builder.ts";
import { Abs, Add, Div, Gather, QuantizeLinear, ReduceMax, Split } from "../onnx/operators.ts";

/** What products are computed in. Everything between them is float32. */
export type Precision = "fp32" | "int8";

/** The input of linear layers, `[tokens, in]`, made ready once for all products that share it. */
export type Activation =
  | { readonly precision: "fp32"; readonly rows: Value }
  | {
      readonly precision: "int8";
      /** uint8 `[tokens, in]`: `x / rowMax · 127 + 128`. */
      readonly rows: Value;
      /** `[tokens, 1]`: the largest magnitude of each row. */
      readonly rowMax: Value;
    };

// What a row of zeros is divided by.
const LEAST_MAX = 1e-9;

/**
 * Rows ready for products of this precision. int8 has one scale per row: one for all rows would leave most of them
 * few bits, since some tokens are huge, and would make a row's result depend on its neighbours.
 */
export function activation(g: GraphBuilder, x: Value, precision: Precision): Activation {
  if (precision === "fp32") return { precision, rows: x };
  const rowMax = Add(g, ReduceMax(g, Abs(g, x), 1), g.float(LEAST_MAX));
  return { precision, rows: QuantizeLinear(g, Div(g, x, rowMax), g.float(1 / 127), g.byte(128)), rowMax };
}

/** Rows by int64 indices. */
export function gatherRows(g: GraphBuilder, x: Activation, indices: Value): Activation {
  const rows = Gather(g, x.rows, indices);
  return x.precision === "fp32" ? { ...x, rows } : { ...x, rows, rowMax: Gather(g, x.rowMax, indices) };
}

/** Rows in `count` pieces of `sizes` rows each. */
export function splitRows(g: GraphBuilder, x: Activation, sizes: Value, count: number): readonly Activation[] {
  const rows = Split(g, x.rows, { sizes, count }, 0);
  if (x.precision === "fp32") return rows.map((piece) => ({ ...x, rows: piece }));
  const maxima = Split(g, x.rowMax, { sizes, count }, 0);
  return rows.map((piece, index) => ({ ...x, rows: piece, rowMax: maxima[index] as Value }));
}
