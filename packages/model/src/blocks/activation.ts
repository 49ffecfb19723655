import type { Calibration } from "../calibration/calibration.ts";
import type { GraphBuilder, Value } from "../onnx/graph-builder.ts";
import { Abs, Div, Gather, QuantizeLinear, ReduceMax } from "../onnx/operators.ts";
import type { ChannelScales } from "../quantize/channel-scales.ts";
import type { Int8Kernels } from "./int8-product.ts";

/** What products are computed in. Everything between them is float32. */
export type Precision = "fp32" | "int8" | "int4";

/** How the products of a graph are computed. */
export interface Arithmetic {
  readonly precision: Precision;
  /** What products take in on typical text, for weights that are fitted to it. */
  readonly calibration?: Calibration | undefined;
  /** Which integer products are exact on this processor: see `exactInt8Kernels`. @default "careful" */
  readonly int8Kernels?: Int8Kernels | undefined;
  /** Told of every product while the graph is built: its name, and its input, float32 `[tokens, in]`. */
  readonly observe?: ((product: string, rows: Value) => void) | undefined;
}

/** The input of linear layers, `[tokens, in]`, made ready once for all products that share it. */
export interface Activation extends Arithmetic {
  /** float32, or in int8 uint8: `x / rowMax · 127 + 128`. */
  readonly rows: Value;
  /** int8 only, `[tokens, 1]`: the largest magnitude of each row. */
  readonly rowMax: Value | undefined;
  /** What `x` was divided by, channel by channel, and weights are to be multiplied by. */
  readonly channelScales: ChannelScales | undefined;
}

/**
 * Rows ready for products. int8 has one scale per row: one for all rows would leave most of them few bits, since some
 * tokens are huge, and would make a row's result depend on its neighbours.
 */
export function activation(
  g: GraphBuilder,
  x: Value,
  { precision, calibration, int8Kernels, observe }: Arithmetic,
  channelScales?: ChannelScales,
): Activation {
  const shared = { precision, calibration, int8Kernels, observe, channelScales };
  if (precision !== "int8") return { ...shared, rows: x, rowMax: undefined };
  // A row of zeros is divided by zero; whatever integers come of it, its product is multiplied by this zero again.
  const rowMax = ReduceMax(g, Abs(g, x), 1);
  return { ...shared, rows: QuantizeLinear(g, Div(g, x, rowMax), g.float(1 / 127), g.byte(128)), rowMax };
}

/** Rows by int64 indices. */
export function gatherRows(g: GraphBuilder, x: Activation, indices: Value): Activation {
  return { ...x, rows: Gather(g, x.rows, indices), rowMax: x.rowMax && Gather(g, x.rowMax, indices) };
}
