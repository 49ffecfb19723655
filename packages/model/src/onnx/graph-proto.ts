// Nodes, tensors and graphs of an ONNX file as plain data.

import { corrupt, quoted, unsupported } from "../files/errors.ts";
import { packedIntegers, protoFields, type ProtoField, textOf } from "./proto-fields.ts";
import { MAX_TENSOR_PARTS, storedTensor, type StoredTensor } from "./stored-tensor.ts";

/** Attribute of a node. One of the fields is set. */
export interface Attribute {
  readonly integer?: number;
  readonly float?: number;
  readonly text?: string;
  readonly integers?: readonly number[];
  readonly tensor?: StoredTensor;
  readonly graph?: GraphProto;
}

export interface GraphNode {
  /** Operator, such as `MatMul`. */
  readonly type: string;
  /** `""` for operators of the specification. */
  readonly domain: string;
  /** Names of values; `""` for an optional input that is not used. */
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attributes: ReadonlyMap<string, Attribute>;
}

export interface GraphProto {
  readonly nodes: readonly GraphNode[];
  readonly constants: readonly StoredTensor[];
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
}

/** A graph that is being read, field by field. */
export class GraphReader {
  readonly #path: string;
  readonly #budget: Budget;
  readonly #nodes: GraphNode[] = [];
  readonly #constants: StoredTensor[] = [];
  readonly #inputs: string[] = [];
  readonly #outputs: string[] = [];

  constructor(path: string, budget: Budget = new Budget(path)) {
    this.#path = path;
    this.#budget = budget;
  }

  constant(tensor: StoredTensor): void {
    this.#budget.spend(1);
    this.#constants.push(tensor);
  }

  /** Adds a field other than a constant of the outer graph. @throws {ReadMeError} when it is damaged */
  field(field: ProtoField): void {
    if (field.number === 1) this.#nodes.push(this.#node(field));
    else if (field.number === 5) this.constant(this.#tensor(field));
    else if (field.number === 11) this.#inputs.push(this.#portName(field));
    else if (field.number === 12) this.#outputs.push(this.#portName(field));
    else if (field.number === 15) throw unsupported(this.#path, "has sparse weights, which are not read");
  }

  finish(): GraphProto {
    return { nodes: this.#nodes, constants: this.#constants, inputs: this.#inputs, outputs: this.#outputs };
  }

  #node(field: ProtoField): GraphNode {
    const path = this.#path;
    let [type, domain] = ["", ""];
    const inputs: string[] = [];
    const outputs: string[] = [];
    const attributes = new Map<string, Attribute>();
    for (const part of protoFields({ ...field, path })) {
      this.#budget.spend(1);
      if (part.number === 1) inputs.push(textOf(path, part));
      else if (part.number === 2) outputs.push(textOf(path, part));
      else if (part.number === 4) type = textOf(path, part);
      else if (part.number === 5) attributes.set(...this.#attribute(part));
      else if (part.number === 7) domain = textOf(path, part);
    }
    return { type, domain: domain === "ai.onnx" ? "" : domain, inputs, outputs, attributes };
  }

  #attribute(field: ProtoField): [string, Attribute] {
    const path = this.#path;
    let name = "";
    let attribute: Attribute = {};
    const integers: number[] = [];
    for (const part of protoFields({ ...field, path })) {
      this.#budget.spend(1);
      if (part.number === 1) name = textOf(path, part);
      else if (part.number === 2) attribute = { float: floatOf(part) };
      else if (part.number === 3) attribute = { integer: part.integer };
      else if (part.number === 4) attribute = { text: textOf(path, part) };
      else if (part.number === 5) attribute = { tensor: this.#tensor(part) };
      else if (part.number === 6) attribute = { graph: this.#inner(part) };
      else if (part.number === 8) {
        this.#budget.spend(part.bytes.byteLength);
        for (const integer of packedIntegers(path, part)) integers.push(integer);
      }
    }
    return [name, integers.length > 0 ? { integers } : attribute];
  }

  #inner(field: ProtoField): GraphProto {
    const inner = new GraphReader(this.#path, this.#budget);
    this.#budget.enter();
    for (const part of protoFields({ ...field, path: this.#path })) {
      this.#budget.spend(1);
      inner.field(part);
    }
    this.#budget.leave();
    return inner.finish();
  }

  /** Reads a tensor that is in memory. */
  #tensor(field: ProtoField): StoredTensor {
    const path = this.#path;
    const fields = Array.from(protoFields({ ...field, path }), (part, index) => {
      if (index > MAX_TENSOR_PARTS) throw corrupt(path, "has a tensor of too many parts");
      this.#budget.spend(1);
      return { ...part, byteLength: part.bytes.byteLength };
    });
    return storedTensor(path, fields);
  }

  #portName(field: ProtoField): string {
    for (const part of protoFields({ ...field, path: this.#path })) {
      if (part.number === 1) return textOf(this.#path, part);
    }
    throw corrupt(this.#path, `has an input or output without a name at byte ${field.offset}`);
  }
}

// A decomposed graph of 100 layers has some 500,000 parts.
const MAX_PARTS = 2 ** 21;
const MAX_DEPTH = 4;

/** Bounds the parts and the depth of a graph. */
class Budget {
  readonly #path: string;
  #partsLeft = MAX_PARTS;
  #depth = 0;

  constructor(path: string) {
    this.#path = path;
  }

  spend(parts: number): void {
    this.#partsLeft -= parts;
    if (this.#partsLeft < 0) throw corrupt(this.#path, `has more than ${MAX_PARTS} parts, which no language model has`);
  }

  enter(): void {
    if (++this.#depth > MAX_DEPTH) throw corrupt(this.#path, `has graphs in more than ${MAX_DEPTH} levels`);
  }

  leave(): void {
    this.#depth--;
  }
}

function floatOf({ bytes }: ProtoField): number {
  return bytes.byteLength === 4 ? new DataView(bytes.buffer, bytes.byteOffset, 4).getFloat32(0, true) : NaN;
}

/** Names a node for messages. */
export function describeNode({ type, outputs }: GraphNode): string {
  return `${type} of ${quoted(outputs.find((output) => output !== "") ?? "nothing")}`;
}
