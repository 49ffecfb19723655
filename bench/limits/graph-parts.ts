// What each node of a decoder graph is for, by its name: that of its first output.

import type { Graph } from "@readme-moe/model";

type Node = Graph["nodes"][number];

/** In the order of tables and pictures. */
export const PARTS = [
  "FFN products",
  "attention products",
  "head",
  "attention over the cache",
  "rows to int8 and back",
  "gate and activation",
  "norms",
  "rotary, splits, shapes",
  "dealing to experts",
  "choosing candidates",
  "inputs, masks, outputs",
] as const;

export type Part = (typeof PARTS)[number];

const PRODUCTS = new Set(["MatMulIntegerToFloat", "MatMulNBits", "Gemm"]);
const ROUNDING = new Set(["Abs", "ReduceMax", "Div", "QuantizeLinear"]);
const NORMS = new Set(["SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization"]);
const CHOOSING = new Set(["TopK", "Softmax", "Log", "Sub", "ReduceLogSumExp", "GatherElements"]);
const MASKING = new Set(["Range", "Less", "Where", "Expand", "And", "Shape", "Sub"]);

/** Where in the model a node stands. Weights tell it: nodes are in the order in which they were built. */
type Section = "inputs" | "attention" | "ffn" | "head";

/** Of all nodes, those of branches included. Nodes that the runtime makes by fusing have the name of one of them, or none. */
export function graphParts({ nodes }: Pick<Graph, "nodes">): ReadonlyMap<string, Part> {
  const parts = new Map<string, Part>();
  const madeBy = new Map<string, Node>();
  let section: Section = "inputs";
  const visit = (node: Node, branchOf: "cache" | "experts" | undefined): void => {
    section = sectionOf(node) ?? section;
    const part = branchOf === "cache" ? "attention over the cache" : partOf(node, section, madeBy);
    for (const output of node.outputs) if (output !== undefined) madeBy.set(output, node);
    parts.set(nameOf(node), part);
    const own = node.type === "If" ? (section === "ffn" ? "experts" : "cache") : branchOf;
    for (const inner of branchNodes(node)) visit(inner, own);
  };
  for (const node of nodes) visit(node, undefined);
  return parts;
}

function nameOf({ outputs }: Node): string {
  return outputs.find((output) => output !== undefined) ?? "";
}

function branchNodes({ attributes }: Node): readonly Node[] {
  return Object.values(attributes).flatMap((attribute) =>
    typeof attribute === "object" && "nodes" in attribute ? attribute.nodes : [],
  );
}

function sectionOf({ inputs }: Node): Section | undefined {
  for (const name of inputs) {
    const owner = name && /^(?:layers\.\d+\.(input_norm|post_attention_norm)|(final_norm|head)\b)/.exec(name);
    if (!owner) continue;
    if (owner[2] !== undefined) return "head";
    return owner[1] === "input_norm" ? "attention" : "ffn";
  }
  return undefined;
}

function partOf(node: Node, section: Section, madeBy: ReadonlyMap<string, Node>): Part {
  const { type, inputs } = node;
  const isOutside = section === "inputs" || type === "Identity" || inputs.some((input) => input === "logit_rows");
  if (isOutside) return "inputs, masks, outputs";
  const [first] = inputs.map((input) => input && madeBy.get(input)?.type);
  if (section === "head") return headPart(type, first);
  if (NORMS.has(type)) return isOfHeads(inputs) ? "rotary, splits, shapes" : "norms";
  if (PRODUCTS.has(type)) return section === "ffn" ? "FFN products" : "attention products";
  if (ROUNDING.has(type)) return "rows to int8 and back";
  if (type === "Mul" && first === "MatMulIntegerToFloat") return "rows to int8 and back";
  // Block sums, which stand for the offsets of blocks.
  if (type === "ReduceSum" || (section === "ffn" && type === "Reshape")) return partOfSums(section);
  if (section === "ffn") {
    return type === "Split" || type === "QuickGelu" || type === "Mul" ? "gate and activation" : "dealing to experts";
  }
  if (type === "If") return "attention over the cache";
  return MASKING.has(type) ? "inputs, masks, outputs" : "rotary, splits, shapes";
}

function partOfSums(section: Section): Part {
  return section === "ffn" ? "FFN products" : "attention products";
}

/** @param first - what makes the node's first input */
function headPart(type: string, first: string | undefined): Part {
  if (NORMS.has(type)) return "norms";
  if (PRODUCTS.has(type)) return "head";
  // Rows are rounded by their largest magnitude; other maxima are of logits.
  if (CHOOSING.has(type) || (type === "ReduceMax" && first !== "Abs")) return "choosing candidates";
  const isScaling = type === "Mul" && first === "MatMulIntegerToFloat";
  return ROUNDING.has(type) || isScaling ? "rows to int8 and back" : "inputs, masks, outputs";
}

/** The norm of queries and keys has ones for its scales, which are no weight of the model. */
function isOfHeads(inputs: Node["inputs"]): boolean {
  return !inputs.some((input) => input !== undefined && input.endsWith("norm"));
}
