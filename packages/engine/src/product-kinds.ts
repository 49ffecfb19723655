import type { Calibration, Graph, Model, Precision } from "@readme-moe/model";
import { decoderGraph } from "./decoder-graph.ts";

type Node = Graph["nodes"][number];

/** How many products of a model's graph each kind of kernel computes, by a name that tells its numbers. */
export function productKinds(
  model: Pick<Model, "config" | "experts" | "weights">,
  precision: Precision,
): Readonly<Record<string, number>> {
  const counts: Record<string, number> = {};
  for (const node of allNodes(decoderGraph(model, { precision, calibration: NOT_READ }).nodes)) {
    const kind = kindOf(node);
    if (kind !== undefined) counts[kind] = (counts[kind] ?? 0) + 1;
  }
  return counts;
}

// Weights are fitted when a graph is written, which this one is not.
const refuse = (): never => {
  throw new Error("The graph is only looked at");
};
const NOT_READ: Calibration = { inputMax: refuse, inputSquares: refuse };

function* allNodes(nodes: readonly Node[]): Generator<Node> {
  for (const node of nodes) {
    yield node;
    for (const attribute of Object.values(node.attributes)) {
      if (typeof attribute === "object" && "nodes" in attribute) yield* allNodes(attribute.nodes);
    }
  }
}

function kindOf({ type, attributes }: Node): string | undefined {
  const { bits, block_size: blockSize, transB } = attributes;
  if (type === "MatMulNBits" && typeof bits === "number" && typeof blockSize === "number") {
    return `${bits} bits in blocks of ${blockSize} (MatMulNBits)`;
  }
  if (type === "MatMulIntegerToFloat") return "int8 by rows (MatMulIntegerToFloat)";
  if (type === "Gemm") return transB === 1 ? "float32 (Gemm)" : "offsets of blocks (Gemm)";
  return undefined;
}
