import type { GraphBuilder, Value } from "../graph/graph-builder.ts";
import { Add, Div, Mul, ReduceMean, Sqrt } from "../graph/operators.ts";
import { Pow } from "../graph/standard-operators.ts";
import type { TensorRef } from "@readme-moe/model";
import { exportVector } from "./export-linear.ts";

/** RMS norm over the last axis in plain operators, as PyTorch's exporter writes it. */
export function exportNorm(g: GraphBuilder, name: string, x: Value, scale: TensorRef, epsilon: number): Value {
  const meanSquare = ReduceMean(g, Pow(g, x, g.float(2)), -1);
  const inverse = Div(g, g.float(1), Sqrt(g, Add(g, meanSquare, g.float(epsilon))));
  return Mul(g, Mul(g, x, inverse), exportVector(g, name, scale));
}
