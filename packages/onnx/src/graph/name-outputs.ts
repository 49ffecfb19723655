import type { Graph, Node, Value } from "./graph-builder.ts";

/**
 * Removes the copies that `GraphBuilder.output` adds to name outputs: the nodes that compute them use the names
 * directly. Runtimes do not always remove a copy of a cache, which grows with every token.
 *
 * Outputs that no node computes, and further outputs of the same value, keep their copies.
 */
export function nameOutputs(graph: Graph): Graph {
  const made = new Set(graph.nodes.flatMap((node) => node.outputs));
  const outputs = new Set(graph.outputs.map((output) => output.name));
  const names = new Map<Value, Value>();
  const copies = new Set<Node>();
  for (const node of graph.nodes) {
    const [source] = node.inputs;
    const [target] = node.outputs;
    if (node.type !== "Identity" || !source || !target || !outputs.has(target)) continue;
    if (!made.has(source) || names.has(source) || outputs.has(source)) continue;
    names.set(source, target);
    copies.add(node);
  }
  const rename = (value: Value | undefined): Value | undefined => (value && names.get(value)) ?? value;
  const nodes = graph.nodes
    .filter((node) => !copies.has(node))
    .map((node) => ({ ...node, inputs: node.inputs.map(rename), outputs: node.outputs.map(rename) }));
  return { ...graph, nodes };
}
