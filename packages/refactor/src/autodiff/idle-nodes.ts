import type { Graph, Value } from "@readme-moe/onnx";

/**
 * The graph without nodes that no output depends on. The runtime would run them: a forward pass whose result only its
 * gradient's rules look at has some at its end.
 */
export function withoutIdleNodes(graph: Graph): Graph {
  const wanted = new Set<Value | undefined>(graph.outputs.map(({ name }) => name));
  const nodes = graph.nodes
    .toReversed()
    .filter(({ inputs, outputs }) => {
      if (!outputs.some((output) => output !== undefined && wanted.has(output))) return false;
      for (const input of inputs) wanted.add(input);
      return true;
    })
    .toReversed();
  return { ...graph, nodes, constants: graph.constants.filter(({ name }) => wanted.has(name)) };
}
