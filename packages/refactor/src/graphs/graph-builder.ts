// An ONNX graph under construction. Exports and training append nodes; encode.ts turns the result into bytes.

/** Element types that our graphs use; named as onnxruntime's JavaScript API names them. */
export type ElementType = "float64" | "float32" | "float16" | "int64" | "int32" | "int8" | "uint8" | "bool";

/** Tensor in a graph: the output of a node, an input or a constant. Its name is unique in the graph. */
export type Value = string & { readonly value: unique symbol };

/** Fixed size, or the name of a size that differs from run to run. */
export type Dimension = number | string;

export type Attribute = number | string | readonly number[] | { readonly float: number };

export interface Node {
  readonly type: string;
  readonly domain: string;
  readonly inputs: readonly (Value | undefined)[];
  /** `undefined` for an optional output that is not used. */
  readonly outputs: readonly (Value | undefined)[];
  /** Numbers are integers; a float is written `{ float: 0.5 }`, since ONNX distinguishes the two. */
  readonly attributes: Readonly<Record<string, Attribute>>;
}

export interface Port {
  readonly name: Value;
  readonly type: ElementType;
  /** `undefined` where it is known in runs alone. */
  readonly shape: readonly Dimension[] | undefined;
}

/** Constant tensor. `bytes` is called once, when the graph is written, so that weights are not in memory together. */
export interface Constant {
  readonly name: Value;
  readonly type: ElementType;
  readonly shape: readonly number[];
  readonly byteLength: number;
  readonly bytes: () => Promise<Uint8Array> | Uint8Array;
}

/** ONNX graph as plain data, without its constants' bytes. `encodeGraph` makes a file of it. */
export interface Graph {
  readonly name: string;
  readonly nodes: readonly Node[];
  readonly inputs: readonly Port[];
  readonly outputs: readonly Port[];
  readonly constants: readonly Constant[];
}

const BYTES_PER_ELEMENT: Readonly<Record<ElementType, number>> = {
  float64: 8,
  float32: 4,
  float16: 2,
  int64: 8,
  int32: 4,
  int8: 1,
  uint8: 1,
  bool: 1,
};

/** Builds one graph. Methods that make a tensor return its `Value`, which later nodes take as an input. */
export class GraphBuilder {
  readonly #name: string;
  readonly #nodes: Node[] = [];
  #numNodes = 0;
  readonly #inputs: Port[] = [];
  readonly #outputs: Port[] = [];
  readonly #constants: Constant[] = [];
  readonly #names = new Set<string>();
  readonly #shared = new Map<string, Value>();

  constructor(name: string) {
    this.#name = name;
  }

  /** Declares a tensor that the caller passes at every run. */
  input(name: string, type: ElementType, shape: readonly Dimension[]): Value {
    const value = this.#claim(name);
    this.#inputs.push({ name: value, type, shape });
    return value;
  }

  /** Returns `value` to the caller under `name`. */
  output(name: string, value: Value, type: ElementType, shape: readonly Dimension[]): void {
    const output = this.#claim(name);
    this.#nodes.push({ type: "Identity", domain: "", inputs: [value], outputs: [output], attributes: {} });
    this.#outputs.push({ name: output, type, shape });
  }

  /** Adds a weight. `bytes` reads `shape` elements of `type`, row-major and little-endian. */
  weight(name: string, type: ElementType, shape: readonly number[], bytes: Constant["bytes"]): Value {
    const value = this.#claim(name);
    const byteLength = shape.reduce((product, size) => product * size, BYTES_PER_ELEMENT[type]);
    this.#constants.push({ name: value, type, shape, byteLength, bytes });
    return value;
  }

  /** Adds a small list of integers, such as a shape; equal lists are one constant. */
  integers(values: readonly number[]): Value {
    return this.#constant("int64", [values.length], BigInt64Array.from(values, BigInt));
  }

  /** Adds a scalar integer. */
  integer(value: number): Value {
    return this.#constant("int64", [], BigInt64Array.of(BigInt(value)));
  }

  /** Adds a scalar byte. */
  byte(value: number): Value {
    return this.#constant("uint8", [], Uint8Array.of(value));
  }

  /** Adds a small vector of floats; equal ones are one constant. */
  floats(values: readonly number[]): Value {
    return this.#constant("float32", [values.length], Float32Array.from(values));
  }

  /** Adds a scalar float. */
  float(value: number): Value {
    return this.#constant("float32", [], Float32Array.of(value));
  }

  /** Appends a node with one output. */
  node(type: string, inputs: Node["inputs"], attributes: Node["attributes"] = {}, domain = ""): Value {
    const output = this.#claim(`${type}_${this.#numNodes++}`);
    this.#nodes.push({ type, domain, inputs, outputs: [output], attributes });
    return output;
  }

  /** Appends a node with several outputs and returns those with the indices `wanted`. */
  nodes<const Wanted extends readonly number[]>(
    type: string,
    inputs: Node["inputs"],
    wanted: Wanted,
    attributes: Node["attributes"] = {},
  ): { readonly [Index in keyof Wanted]: Value } {
    const id = this.#numNodes++;
    const outputs: (Value | undefined)[] = Array.from({ length: Math.max(...wanted) + 1 }, () => undefined);
    const values = wanted.map((index) => (outputs[index] = this.#claim(`${type}_${id}_${index}`)));
    this.#nodes.push({ type, domain: "", inputs, outputs, attributes });
    return values as { readonly [Index in keyof Wanted]: Value };
  }

  build(): Graph {
    return {
      name: this.#name,
      nodes: this.#nodes,
      inputs: this.#inputs,
      outputs: this.#outputs,
      constants: this.#constants,
    };
  }

  #constant(type: ElementType, shape: readonly number[], data: BigInt64Array | Float32Array | Uint8Array): Value {
    const name = `${type}[${shape.join()}]:${data.join()}`;
    const known = this.#shared.get(name);
    if (known) return known;
    const value = this.weight(name, type, shape, () => new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    this.#shared.set(name, value);
    return value;
  }

  #claim(name: string): Value {
    if (this.#names.has(name)) throw new Error(`The graph ${this.#name} already has a tensor named ${name}`);
    this.#names.add(name);
    return name as Value;
  }
}
