import { dirname } from "node:path";
import { corrupt, quoted, unsupported } from "../files/errors.ts";
import { resolveInside } from "../files/file-name.ts";
import { ByteSource, orClose, together } from "../files/read-file.ts";
import {
  type FieldHead,
  fieldHead,
  type GraphProto,
  GraphReader,
  MAX_TENSOR_PARTS,
  type Message,
  type ProtoField,
  SMALL_BYTES,
  storedTensor,
  type StoredTensor,
  type TensorField,
  VALUE_FIELDS,
} from "./proto.ts";

const MAX_DATA_FILES = 1000;

/** An ONNX file with the files beside it that hold its values: the graph is in memory, the weights are not. */
export class OnnxFile {
  readonly path: string;
  readonly graph: GraphProto;
  readonly #source: ByteSource;
  /** Files of values by the names that the graph has for them. */
  readonly #beside: ReadonlyMap<string, ByteSource>;

  private constructor(source: ByteSource, graph: GraphProto, beside: ReadonlyMap<string, ByteSource>) {
    this.path = source.path;
    this.graph = graph;
    this.#source = source;
    this.#beside = beside;
  }

  /**
   * Opens a file.
   *
   * @throws {ReadMeError} when it is damaged or no ONNX model, or names a file of values that is missing, too short or
   *   outside of its folder
   */
  static async open(path: string): Promise<OnnxFile> {
    const source = await ByteSource.open(path);
    const beside = new Map<string, ByteSource>();
    const open = { close: () => together([source, ...beside.values()]).close() };
    return orClose(open, async () => {
      const graph = await readModel(source);
      await openBeside(path, graph, beside);
      return new OnnxFile(source, graph, beside);
    });
  }

  /** Paths of all files, the graph's first. */
  get paths(): readonly string[] {
    return [this.path, ...new Set(Array.from(this.#beside.values(), ({ path }) => path))];
  }

  /**
   * Reads `byteLength` bytes of a tensor's values from `offset` on.
   * @throws {ReadMeError} `ERR_FILE_CORRUPT` when the file has been cut; `ERR_DISPOSED` after `close`
   */
  async read({ name, data }: StoredTensor, offset: number, byteLength: number): Promise<Uint8Array> {
    if ("bytes" in data) return data.bytes.slice(offset, offset + byteLength);
    const source = data.location === undefined ? this.#source : this.#beside.get(data.location);
    if (source === undefined) throw corrupt(this.path, `tensor ${quoted(name)} has no file`);
    return source.read(data.offset + offset, byteLength, `tensor ${quoted(name)}`);
  }

  async close(): Promise<void> {
    await together([this.#source, ...this.#beside.values()]).close();
  }
}

async function readModel(source: ByteSource): Promise<GraphProto> {
  const file = new FileFields(source);
  let graph: GraphProto | undefined;
  while (file.position < file.size) {
    const head = await file.head(file.size);
    if (head.number === 25 && head.byteLength > 0) {
      throw unsupported(file.path, "has functions of its own; export it with inlined functions");
    }
    if (head.number !== 7 || head.wire !== 2) file.skip(head);
    else if (graph === undefined) graph = await readGraph(file, file.position + head.byteLength);
    else throw corrupt(file.path, "has two graphs");
  }
  if (graph === undefined) throw corrupt(file.path, "has no graph; it is no ONNX model");
  return graph;
}

async function readGraph(file: FileFields, end: number): Promise<GraphProto> {
  const reader = new GraphReader(file.path);
  while (file.position < end) {
    const head = await file.head(end);
    if (head.number === 5 && head.wire === 2) reader.constant(await readTensor(file, head));
    else if (head.wire === 2 && [1, 11, 12, 15].includes(head.number)) reader.field(await file.field(head));
    else file.skip(head);
  }
  return reader.finish();
}

/** Reads a tensor of the outer graph, all but its values if these are large. */
async function readTensor(file: FileFields, { byteLength }: FieldHead): Promise<StoredTensor> {
  const end = file.position + byteLength;
  const fields: TensorField[] = [];
  while (file.position < end) {
    const head = await file.head(end);
    if (VALUE_FIELDS.has(head.number) && head.byteLength > SMALL_BYTES) {
      fields.push({ ...head, offset: file.position });
      file.skip(head);
    } else {
      fields.push({ ...(await file.field(head)), byteLength: head.byteLength });
    }
    if (fields.length > MAX_TENSOR_PARTS) throw corrupt(file.path, "has a tensor of too many parts");
  }
  return storedTensor(file.path, fields);
}

/** Opens the files of values that tensors name, and checks that each holds what is said to be in it. */
async function openBeside(path: string, graph: GraphProto, opened: Map<string, ByteSource>): Promise<void> {
  const folder = dirname(path);
  for (const tensor of tensorsOf(graph)) {
    if ("bytes" in tensor.data) continue;
    const { location, offset, byteLength } = tensor.data;
    if (location === undefined) continue;
    let source = opened.get(location);
    if (source === undefined) {
      if (opened.size === MAX_DATA_FILES) throw corrupt(path, `names more than ${MAX_DATA_FILES} files of values`);
      source = await ByteSource.open(await resolveInside(folder, location, path));
      opened.set(location, source);
    }
    if (offset + byteLength <= source.size) continue;
    const where = `bytes ${offset} to ${offset + byteLength} of ${quoted(location)}`;
    throw corrupt(path, `tensor ${quoted(tensor.name)} is said to be in ${where}, which has ${source.size} bytes`);
  }
}

function* tensorsOf({ constants, nodes }: GraphProto): Generator<StoredTensor> {
  yield* constants;
  for (const { attributes } of nodes) {
    for (const { tensor, graph } of attributes.values()) {
      if (tensor !== undefined) yield tensor;
      if (graph !== undefined) yield* tensorsOf(graph);
    }
  }
}

// Walks through the fields of a protobuf file that may be larger than memory.

const WINDOW_BYTES = 2 ** 20;
/** A node or a small tensor; a graph within a node may have several megabytes. */
const MAX_TAKEN_BYTES = 2 ** 26;
const MAX_HEAD_BYTES = 20;
// Files of the largest graphs have some 100,000 fields outside of nodes.
const MAX_HEADS = 2 ** 20;
const NOTHING = new Uint8Array(0);

/** Cursor over a file's fields, with one window of it in memory. */
class FileFields {
  readonly path: string;
  readonly size: number;
  readonly #source: ByteSource;
  #window: Uint8Array = NOTHING;
  #start = 0;
  #takenBytes = 0;
  #numHeads = 0;
  /** Offset from the beginning of the file, in bytes. */
  position = 0;

  constructor(source: ByteSource) {
    this.#source = source;
    this.path = source.path;
    this.size = source.size;
  }

  /** Reads the head of the next field of a message that ends at `end`. @throws {ReadMeError} `ERR_FILE_CORRUPT` */
  async head(end: number): Promise<FieldHead> {
    if (++this.#numHeads > MAX_HEADS) throw corrupt(this.path, `has more than ${MAX_HEADS} fields, which no graph has`);
    await this.#load(Math.min(MAX_HEAD_BYTES, end - this.position));
    const message = { path: this.path, bytes: this.#window, offset: this.#start };
    const head = fieldHead(message, this.position - this.#start, end - this.#start);
    this.position = this.#start + head.start;
    return head;
  }

  /** Reads a field's content. @throws {ReadMeError} `ERR_FILE_CORRUPT` when it is larger than any graph's */
  async take({ byteLength }: FieldHead): Promise<Message> {
    this.#takenBytes += byteLength;
    if (this.#takenBytes > MAX_TAKEN_BYTES) {
      throw corrupt(this.path, `has a graph of more than ${MAX_TAKEN_BYTES} bytes, which no language model has`);
    }
    await this.#load(byteLength);
    const from = this.position - this.#start;
    const offset = this.position;
    this.position += byteLength;
    return { path: this.path, bytes: this.#window.slice(from, from + byteLength), offset };
  }

  /** Reads a whole field. */
  async field(head: FieldHead): Promise<ProtoField> {
    return { ...head, ...(await this.take(head)) };
  }

  skip({ byteLength }: FieldHead): void {
    this.position += byteLength;
  }

  async #load(byteLength: number): Promise<void> {
    const { position } = this;
    const end = this.#start + this.#window.byteLength;
    if (position >= this.#start && position + byteLength <= end) return;
    const wanted = Math.min(Math.max(byteLength, WINDOW_BYTES), this.size - position);
    this.#window = await this.#source.read(position, wanted, "the graph");
    this.#start = position;
  }
}
