// Follows rows of numbers through a graph, from one product to the next. Shapes, masks and angles are left aside.

import type { ModelConfig } from "../config/model-config.ts";
import { unsupported } from "../files/errors.ts";
import type { RowRange } from "../tensor-store.ts";
import { describeNode, type GraphNode } from "./graph-proto.ts";
import type { GraphIndex } from "./graph-index.ts";
import type { GraphWeights } from "./graph-weights.ts";
import { type Product, productOf, type Table, tableOf } from "./products.ts";

/** A product or a table from which rows come. */
export interface Source {
  readonly from: Product | Table;
  /** The outputs that arrive, if the graph splits them; else all. */
  readonly rows: RowRange | undefined;
  /** Operators on one of the ways that change a value by itself, such as `Sigmoid`. */
  readonly passed: ReadonlySet<string>;
}

/** A step from a node's output to one of its inputs. */
interface Step {
  readonly input: string;
  readonly rows?: RowRange | undefined;
}

export function isProduct(from: Product | Table): from is Product {
  return "input" in from;
}

function namesIn(text: string): ReadonlySet<string> {
  return new Set(text.split(/\s+/));
}

/** Activations of gates. */
const ACTIVATIONS: ReadonlySet<string> = namesIn(`Sigmoid QuickGelu Swish Silu Gelu FastGelu BiasGelu Erf Tanh
  Relu Elu Softplus HardSwish HardSigmoid LeakyRelu Mish Selu ThresholdedRelu`);

// Nodes whose later inputs are shapes, indices or angles.
const FIRST_ONLY: ReadonlySet<string> = namesIn(`Reshape Expand Slice Unsqueeze Squeeze Split Tile Gather
  RotaryEmbedding Flatten QuantizeLinear DequantizeLinear DynamicQuantizeLinear Transpose Pad CumSum`);
const NO_ROWS: ReadonlySet<string> = namesIn("Shape Size Range ConstantOfShape Constant");
// Nodes that keep the last axis as it is.
const KEEPS_COLUMNS: ReadonlySet<string> = new Set([...namesIn("Cast Identity Add Mul Sub Div Neg"), ...ACTIVATIONS]);
const ATTENTIONS: ReadonlySet<string> = namesIn("GroupQueryAttention MultiHeadAttention Attention");

// A decomposed graph of 100 layers takes some 10 million, with more than 10,000 nodes.
const MAX_STEPS = 2 ** 24;
const MAX_STEPS_PER_NODE = 4096;
const MAX_DEPTH = 4;

export class DataFlow {
  readonly index: GraphIndex;
  readonly weights: GraphWeights;
  readonly products: readonly Product[];
  readonly tables: readonly Table[];
  readonly #config: ModelConfig;
  readonly #live: ReadonlySet<GraphNode>;
  readonly #ends = new Map<string, Product | Table>();
  readonly #byInput = new Map<string, Product[]>();
  #stepsLeft: number;
  /** Number of `Split` nodes of equal parts that are being resolved. */
  #depth = 0;

  /** @throws {ReadMeError} when a product has weights that cannot be read */
  constructor(weights: GraphWeights, config: ModelConfig) {
    const { index } = weights;
    this.index = index;
    this.weights = weights;
    this.#config = config;
    this.#live = liveNodes(index);
    const found = index.nodes.filter((node) => this.isLive(node));
    this.tables = found.flatMap((node) => tableOf(weights, node) ?? []);
    this.products = found.flatMap((node) => productOf(weights, node) ?? []);
    this.#stepsLeft = Math.min(MAX_STEPS, MAX_STEPS_PER_NODE * index.nodes.length);
    for (const end of [...this.products, ...this.tables]) this.#ends.set(end.output, end);
    for (const product of this.products) {
      const known = this.#byInput.get(product.input);
      if (known === undefined) this.#byInput.set(product.input, [product]);
      else known.push(product);
    }
  }

  /** Tells whether an output depends on a node; exporters may leave others behind. */
  isLive(node: GraphNode): boolean {
    return this.#live.has(node);
  }

  /** Counts a step from node to node. @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` when there are too many */
  spend(): void {
    if (--this.#stepsLeft < 0) throw unsupported(this.index.path, "has a graph that is too entangled to follow");
  }

  /** Finds the products and tables from which the rows of a value come, up to `most` and one more. */
  sources(value: string, most: number = Infinity): readonly Source[] {
    const found = new Map<string, { from: Product | Table; rows: RowRange | undefined; passed: Set<string> }>();
    const seen = new Set<string>();
    const todo: { value: string; rows: RowRange | undefined; passed: string | undefined }[] = [
      { value, rows: undefined, passed: undefined },
    ];
    for (let next = todo.pop(); next !== undefined && found.size <= most; next = todo.pop()) {
      this.spend();
      const { rows } = next;
      const key = `${rows?.from},${rows?.to},${next.passed}:${next.value}`;
      if (seen.has(key)) continue;
      seen.add(key);
      const end = this.#ends.get(next.value);
      if (end !== undefined) {
        const place = `${rows?.from},${rows?.to}:${next.value}`;
        const known = found.get(place) ?? { from: end, rows, passed: new Set() };
        if (next.passed !== undefined) known.passed.add(next.passed);
        found.set(place, known);
        continue;
      }
      const producer = this.index.producer(next.value);
      if (producer === undefined) continue;
      const passed = ACTIVATIONS.has(producer.node.type) ? producer.node.type : next.passed;
      for (const step of this.#steps(producer.node, producer.output, rows)) {
        todo.push({ value: step.input, rows: step.rows, passed });
      }
    }
    return [...found.values()];
  }

  /** Finds the products that take a value next. */
  takers(value: string): readonly Product[] {
    const found = new Set<Product>();
    const seen = new Set<string>();
    const todo = [value];
    for (let next = todo.pop(); next !== undefined; next = todo.pop()) {
      this.spend();
      if (seen.has(next)) continue;
      seen.add(next);
      const own = this.#byInput.get(next) ?? [];
      for (const product of own) found.add(product);
      for (const node of this.index.consumers(next)) {
        if (NO_ROWS.has(node.type) || own.some((product) => product.node === node)) continue;
        // Quantised rows come with a scale and a zero point, which pass by the product.
        const outputs = node.type === "DynamicQuantizeLinear" ? node.outputs.slice(0, 1) : node.outputs;
        todo.push(...outputs.filter((output) => output !== ""));
      }
    }
    return [...found];
  }

  #steps(node: GraphNode, output: number, rows: RowRange | undefined): readonly Step[] {
    if (NO_ROWS.has(node.type)) return [];
    if (ATTENTIONS.has(node.type)) return this.#attentionSteps(node, output);
    const [first = ""] = node.inputs;
    if (node.type === "Split" || node.type === "Slice") {
      const own = node.type === "Split" ? this.#splitRows(node, output) : this.#sliceRows(node);
      if (own === undefined || rows === undefined) return [{ input: first, rows: own }];
      return [{ input: first, rows: { from: own.from + rows.from, to: own.from + rows.to } }];
    }
    if (FIRST_ONLY.has(node.type)) return [{ input: first }];
    const inputs = node.type === "Where" ? node.inputs.slice(1) : node.inputs;
    const kept = KEEPS_COLUMNS.has(node.type) ? rows : undefined;
    return inputs.map((input) => ({ input, rows: kept }));
  }

  /** Queries, keys and values; one input may hold them all. Grown keys are the second output, values the third. */
  #attentionSteps(node: GraphNode, output: number): readonly Step[] {
    const [query = "", key = "", value = ""] = node.inputs;
    const { numHeads, numKvHeads, headSize } = this.#config;
    if (node.type === "MultiHeadAttention" && (node.inputs[3] ?? "") !== "") {
      throw unsupported(this.index.path, `${describeNode(node)} adds a bias of its own`);
    }
    if (key === "" || value === "") {
      const queries = numHeads * headSize;
      const keys = numKvHeads * headSize;
      const from = [0, queries, queries + keys][output] ?? 0;
      return [{ input: query, rows: { from, to: from + (output === 0 ? queries : keys) } }];
    }
    if (output === 0) return [{ input: query }, { input: key }, { input: value }];
    return [{ input: output === 1 ? key : value }];
  }

  /** Finds the columns of one output of a `Split`; `undefined` along another axis than the last. */
  #splitRows(node: GraphNode, output: number): RowRange | undefined {
    const axis = node.attributes.get("axis")?.integer ?? 0;
    if (axis !== -1 && axis !== 2) return undefined;
    const sizes = this.weights.integers(node.inputs[1]) ?? node.attributes.get("split")?.integers;
    const from = sizes?.slice(0, output).reduce((sum, size) => sum + size, 0);
    const size = sizes?.[output];
    if (from !== undefined && size !== undefined) return { from, to: from + size };
    // Equal parts: their size follows from the product.
    if (this.#depth === MAX_DEPTH) return undefined;
    this.#depth++;
    const [source] = this.sources(node.inputs[0] ?? "", 1);
    this.#depth--;
    if (source === undefined || !isProduct(source.from)) return undefined;
    const each = source.from.weight.isTransposed ? source.from.weight.columns : source.from.weight.rows;
    const part = Math.ceil(each / node.outputs.length);
    return { from: output * part, to: Math.min(each, (output + 1) * part) };
  }

  #sliceRows(node: GraphNode): RowRange | undefined {
    const [, starts, ends, axes, steps] = node.inputs.map((input) => this.weights.integers(input));
    const [axis] = axes ?? [];
    if (steps?.some((step) => step !== 1)) {
      throw unsupported(this.index.path, `${describeNode(node)} takes every ${steps.join()}th value`);
    }
    const [from] = starts ?? [];
    const [to] = ends ?? [];
    if ((axis !== -1 && axis !== 2) || from === undefined || to === undefined || from < 0) return undefined;
    return { from, to };
  }
}

function liveNodes(index: GraphIndex): ReadonlySet<GraphNode> {
  const live = new Set<GraphNode>();
  const todo = [...index.outputs];
  for (let value = todo.pop(); value !== undefined; value = todo.pop()) {
    const node = index.producer(value)?.node;
    if (node === undefined || live.has(node)) continue;
    live.add(node);
    todo.push(...node.inputs);
  }
  return live;
}
