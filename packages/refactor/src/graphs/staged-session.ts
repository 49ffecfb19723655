// Runs graphs with frozen products: the runtime computes what lies between them, stage by stage, and the kernel them.

import { floatOutput, GraphSession, type Feeds, type GraphTensor, type SessionOptions } from "./session.ts";
import type { ElementType, Graph, Node, Port, Value } from "./graph-builder.ts";
import { FROZEN_DOMAIN } from "./operators.ts";

/** Product whose weights do not change, as `FrozenProduct` of the kernel. */
export interface Frozen {
  /** Computes outputs `[rows, numOut]` of inputs `[rows, numIn]`. */
  forward(inputs: Float32Array): Float32Array;
  /** Computes gradients of inputs `[rows, numIn]` from those of outputs `[rows, numOut]`. */
  backward(gradients: Float32Array): Float32Array;
}

/** Frozen products of a run, by the names that the graph has for them. */
export type FrozenFeeds = Readonly<Record<string, Frozen>>;

/** Product between two stages. */
interface StagedProduct {
  readonly frozen: string;
  readonly isBackward: boolean;
  readonly input: Value;
  readonly output: Value;
}

/** Graph of nodes that need no further product, and the products whose inputs are known behind it. */
interface Stage {
  /** `undefined` for a stage without nodes. */
  readonly graph: Graph | undefined;
  readonly products: readonly StagedProduct[];
}

/** Operators whose output has the type of their first input; outputs of others are float32. */
const OF_INPUT: ReadonlySet<string> = new Set(["Concat", "Identity", "Reshape", "Slice", "Transpose", "Unsqueeze"]);

/** Cuts a graph behind its frozen products. A node belongs to the first stage in which its inputs are known. */
function stagesOf(graph: Graph): readonly Stage[] {
  const types = new Map([...graph.inputs, ...graph.constants].map(({ name, type }) => [name, type]));
  const levels = new Map<Value, number>();
  const levelOf = ({ inputs }: Node): number =>
    Math.max(0, ...inputs.map((input) => (input && levels.get(input)) ?? 0));
  const stages: { nodes: Node[]; products: StagedProduct[] }[] = [];
  for (const node of graph.nodes) {
    const level = levelOf(node);
    const stage = (stages[level] ??= { nodes: [], products: [] });
    const isProduct = node.domain === FROZEN_DOMAIN;
    if (isProduct) stage.products.push(stagedProduct(node));
    else stage.nodes.push(node);
    const [first] = node.inputs;
    const type = OF_INPUT.has(node.type) && first ? types.get(first) : undefined;
    for (const output of node.outputs) {
      if (!output) continue;
      levels.set(output, level + (isProduct ? 1 : 0));
      types.set(output, type ?? "float32");
    }
  }
  // A level that has products alone follows one without nodes, so that no level is missing.
  return stages.map(({ nodes, products }, index) => {
    const later = stages.slice(index + 1).flatMap((stage) => stage.nodes.flatMap(({ inputs }) => inputs));
    const wanted = new Set<Value | undefined>([
      ...later,
      ...stages.flatMap((stage) => stage.products.map((p) => p.input)),
    ]);
    return { graph: nodes.length > 0 ? stageGraph(graph, nodes, { wanted, types }) : undefined, products };
  });
}

function stagedProduct({ attributes, inputs, outputs }: Node): StagedProduct {
  const [input, output, frozen] = [inputs[0], outputs[0], attributes["weight"]];
  if (!input || !output || typeof frozen !== "string") throw new TypeError("Expected a product of a weight");
  return { frozen, isBackward: attributes["backward"] === 1, input, output };
}

/** Makes the graph of some nodes. @param wanted - values that products and other stages read */
function stageGraph(
  graph: Graph,
  nodes: readonly Node[],
  {
    wanted,
    types,
  }: { readonly wanted: ReadonlySet<Value | undefined>; readonly types: ReadonlyMap<Value, ElementType> },
): Graph {
  const own = new Set(nodes.flatMap(({ outputs }) => outputs));
  const used = new Set(nodes.flatMap(({ inputs }) => inputs).filter((value) => value !== undefined));
  const constants = graph.constants.filter(({ name }) => used.has(name));
  const known = new Set([...own, ...constants.map(({ name }) => name)]);
  const ports = new Map(graph.inputs.map((port) => [port.name, port]));
  const crossing = (name: Value): Port => ({ name, type: types.get(name) ?? "float32", shape: undefined });
  const results = graph.outputs.filter(({ name }) => own.has(name));
  const passed = nodes.flatMap(({ outputs }) => outputs.filter((value) => value !== undefined && wanted.has(value)));
  return {
    name: graph.name,
    nodes,
    inputs: [...used].filter((value) => !known.has(value)).map((value) => ports.get(value) ?? crossing(value)),
    outputs: [...results, ...passed.map((value) => crossing(value!))],
    constants,
  };
}

interface OpenStage extends Pick<Stage, "products"> {
  readonly session: GraphSession | undefined;
  /** Names of values that no later stage reads. */
  readonly lastUsed: readonly string[];
}

/** A graph that is ready to run, perhaps with frozen products. `run` blocks the thread until a stage is done. */
export class StagedSession {
  readonly #stages: readonly OpenStage[];
  readonly #outputs: readonly string[];

  private constructor(outputs: readonly string[], stages: readonly OpenStage[]) {
    this.#outputs = outputs;
    this.#stages = stages;
  }

  /** @throws {ReadMeError} as `GraphSession.open` */
  static async open(graph: Graph, options: SessionOptions = {}): Promise<StagedSession> {
    const outputs = graph.outputs.map(({ name }): string => name);
    const stages: OpenStage[] = [];
    const used = new Set<string>(outputs);
    for (const { graph: own, products } of stagesOf(graph).toReversed()) {
      const read = [...(own?.inputs.map(({ name }) => name) ?? []), ...products.map(({ input }) => input)];
      const lastUsed = read.filter((name) => !used.has(name));
      for (const name of read) used.add(name);
      stages.unshift({ session: own && (await GraphSession.open(own, options)), products, lastUsed });
    }
    return new StagedSession(outputs, stages);
  }

  /**
   * Runs the graph once.
   *
   * @param kept - outputs of forward products by weight, of a graph that multiplies each once: those that are there are
   *   not computed again, others are added
   * @throws {ReadMeError} `ERR_RUNTIME` when an operator fails
   */
  async run(feeds: Feeds, frozen: FrozenFeeds = {}, kept?: KeptOutputs): Promise<Feeds> {
    const values: Record<string, GraphTensor> = { ...feeds };
    for (const { session, products, lastUsed } of this.#stages) {
      if (session) {
        const inputs = session.inputs.map((name): [string, GraphTensor] => [name, values[name]!]);
        Object.assign(values, await session.run(Object.fromEntries(inputs)));
      }
      for (const product of products) {
        const { frozen: name, isBackward, input, output } = product;
        const weight = frozen[name];
        if (!weight) throw new TypeError(`Expected a frozen product \`${name}\`, got none`);
        const rows = floatOutput(values, input);
        const [numRows = 0] = values[input]?.dims ?? [];
        const data = isBackward ? weight.backward(rows) : (kept?.get(name) ?? weight.forward(rows));
        if (!isBackward) kept?.set(name, data);
        values[output] = { data, dims: [numRows, data.length / numRows] };
      }
      for (const name of lastUsed) delete values[name];
    }
    return Object.fromEntries(this.#outputs.map((name) => [name, values[name]!]));
  }

  async dispose(): Promise<void> {
    for (const { session } of this.#stages) await session?.dispose();
  }
}

/** Outputs of a run's forward products, by the name of the weight. */
export type KeptOutputs = Map<string, Float32Array>;

/** Sessions by key, opened when they are first used. */
export class SessionPool {
  readonly #options: SessionOptions;
  readonly #sessions = new Map<string, Promise<StagedSession>>();

  constructor(options: SessionOptions) {
    this.#options = options;
  }

  get(key: string, make: () => Graph): Promise<StagedSession> {
    const session = this.#sessions.get(key) ?? StagedSession.open(make(), this.#options);
    this.#sessions.set(key, session);
    return session;
  }

  async dispose(): Promise<void> {
    for (const session of this.#sessions.values()) await (await session).dispose();
    this.#sessions.clear();
  }
}
