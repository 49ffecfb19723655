import { type ModelConfig, ropeFrequencies, ropeTables } from "../config/model-config.ts";
import { invalid, quoted, unsupported } from "../files/errors.ts";
import { encodeFloats, isStoredFloat } from "../files/floats.ts";
import { orClose } from "../files/read-file.ts";
import { checkRows, type RowRange, type StoredBlocks, type TensorInfo, type TensorStore } from "../tensor-store.ts";
import { GraphIndex } from "./graph.ts";
import { type Angles, type NamedTensor, nameEncoder, type NamedTensors, nameTensors } from "./name-tensors.ts";
import { OnnxFile } from "./onnx-file.ts";
import { describeNode } from "./proto.ts";
import { bandRows, blockFormatOf, matrixShape, plainWeight, readBlockRows, readRows } from "./weight.ts";

/**
 * ONNX file of a model as a Hugging Face checkpoint, with that format's names, shapes and order. Weights are found by
 * what the graph does with them, whatever their names are.
 *
 * Quantised weights are read as the floats that they stand for; `blocks` gives their own integers.
 */
export class OnnxTensorStore implements TensorStore {
  readonly path: string;
  readonly names: readonly string[];
  /** Paths of all files, the graph's first. */
  readonly files: readonly string[];
  /** Whether the head is the embedding table, whatever the config says: quantised files often have a separate one. */
  readonly isTied: boolean;
  readonly #file: OnnxFile;
  readonly #tensors: ReadonlyMap<string, NamedTensor>;
  #band: { readonly name: string; readonly rows: RowRange; readonly floats: Promise<Float32Array> } | undefined;

  private constructor(file: OnnxFile, { tensors, isTied }: NamedTensors) {
    this.path = file.path;
    this.names = [...tensors.keys()];
    this.files = file.paths;
    this.isTied = isTied;
    this.#file = file;
    this.#tensors = tensors;
  }

  /**
   * Opens a file, and compares its graph with the config.
   * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` when the graph computes something else than the config says, or has
   *   weights in a form that is not read; otherwise as `OnnxFile.open`
   */
  static async open(path: string, config: ModelConfig): Promise<OnnxTensorStore> {
    if (!config.encoder && !ONNX_MODEL_TYPES.includes(config.modelType)) {
      const families = ONNX_MODEL_TYPES.join(", ");
      throw unsupported(path, `is of the family ${config.modelType}; read from ONNX are ${families}`);
    }
    const file = await OnnxFile.open(path);
    return orClose(file, async () => {
      const index = new GraphIndex(path, file.graph);
      const named = config.encoder ? nameEncoder(index, config) : nameTensors(index, config);
      for (const angles of named.angles) await checkAngles(file, config, angles);
      return new OnnxTensorStore(file, named);
    });
  }

  has(name: string): boolean {
    return this.#tensors.has(name);
  }

  info(name: string): TensorInfo {
    const { weight, rows, isOneRow = false } = this.#tensor(name);
    const numRows = rows.to - rows.from;
    const vector = isOneRow ? [1, numRows] : [numRows];
    const shape = weight.rows === 1 ? vector : [numRows, matrixShape(weight)[1]];
    const { type } = weight.values;
    const stored = weight.levels === undefined && type !== undefined && isStoredFloat(type) ? type : "F32";
    const byteLength = shape.reduce((product, size) => product * size, stored === "F32" ? 4 : 2);
    return { name, type: stored, shape, byteLength };
  }

  /** Reads a tensor in the type that `info` names: floats of a file as they are, others as float32. */
  async readBytes(name: string, rows?: RowRange): Promise<Uint8Array> {
    const { type } = this.info(name);
    const floats = await this.readFloats(name, rows);
    return encodeFloats(floats, isStoredFloat(type) ? type : "F32");
  }

  async readFloats(name: string, rows?: RowRange): Promise<Float32Array> {
    const { weight, rows: all, isOneRow } = this.#tensor(name);
    const { shape } = this.info(name);
    const numRows = shape[0] ?? 1;
    if (rows !== undefined) checkRows(shape, rows);
    if (rows === undefined || isOneRow) return readRows(this.#file, weight, all);
    const inFile = { from: all.from + rows.from, to: all.from + rows.to };
    if (!weight.isTransposed) return readRows(this.#file, weight, inFile);
    return this.#readBand(name, rows, numRows);
  }

  /** Finds the integers and scales of a weight; `undefined` for weights without blocks that products could take. */
  blocks(name: string): StoredBlocks | undefined {
    const { weight, rows } = this.#tensor(name);
    const format = blockFormatOf(weight);
    if (format === undefined) return undefined;
    return { format, read: () => readBlockRows(this.#file, { weight, format }, rows) };
  }

  async close(): Promise<void> {
    this.#band = undefined;
    await this.#file.close();
  }

  /** Reads rows that are columns of the file: a band of them, since each costs a pass through the whole matrix. */
  async #readBand(name: string, rows: RowRange, numRows: number): Promise<Float32Array> {
    const { weight, rows: all } = this.#tensor(name);
    const numIn = matrixShape(weight)[1];
    let band = this.#band;
    if (band?.name !== name || rows.from < band.rows.from || rows.to > band.rows.to) {
      const to = Math.min(numRows, Math.max(rows.to, rows.from + bandRows(weight)));
      const inFile = { from: all.from + rows.from, to: all.from + to };
      band = { name, rows: { from: rows.from, to }, floats: readRows(this.#file, weight, inFile) };
      this.#band = band;
    }
    const start = (rows.from - band.rows.from) * numIn;
    try {
      return (await band.floats).slice(start, start + (rows.to - rows.from) * numIn);
    } finally {
      // Readers go from the first row to the last, and do not come back.
      if (rows.to === numRows && this.#band === band) this.#band = undefined;
    }
  }

  #tensor(name: string): NamedTensor {
    const tensor = this.#tensors.get(name);
    if (tensor !== undefined) return tensor;
    throw invalid(this.path, `has no tensor ${quoted(name)}`);
  }
}

/** Positions at which tables of angles are compared; far ones are less exact in float32. */
const POSITIONS = [0, 1, 2, 17, 500] as const;
// Half precision has some three digits.
const TOLERANCE = 4e-3;

/** @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` when the graph's angles are not those of the config */
async function checkAngles(file: OnnxFile, { ropes, rotatedSize }: ModelConfig, angles: Angles): Promise<void> {
  const { tensor, node, angleSet } = angles;
  const rope = ropes[angleSet]!;
  const half = rotatedSize / 2;
  const table = plainWeight(tensor);
  const wrong = unsupported(file.path, `${describeNode(node)} rotates by other angles than config.json says`);
  if (table === undefined) throw wrong;
  if (table.rows === 1) {
    const frequencies = ropeFrequencies(rope, rotatedSize);
    const found = await readRows(file, table, { from: 0, to: half });
    if (!isNear(found, frequencies, (expected) => TOLERANCE * Math.abs(expected) + 1e-7)) throw wrong;
    return;
  }
  // A table is of cosines if its first row is 1, else of sines.
  const [first] = await readRows(file, table, { from: 0, to: 1 });
  for (const position of POSITIONS.filter((one) => one < table.rows)) {
    const { cos, sin } = ropeTables(rope, rotatedSize, position, position + 1);
    const found = await readRows(file, table, { from: position, to: position + 1 });
    if (!isNear(found.subarray(0, half), first === 1 ? cos : sin, () => TOLERANCE)) throw wrong;
  }
}

function isNear(found: Float32Array, expected: Float32Array, tolerance: (value: number) => number): boolean {
  return (
    found.length === expected.length &&
    found.every((value, i) => Math.abs(value - expected[i]!) <= tolerance(expected[i]!))
  );
}

// Names of ONNX files, as transformers.js chooses among them.

/** Endings of file names by `dtype`, the most exact first. */
const SUFFIXES = {
  fp32: "",
  fp16: "_fp16",
  q8: "_quantized",
  int8: "_int8",
  uint8: "_uint8",
  q4: "_q4",
  q4f16: "_q4f16",
  bnb4: "_bnb4",
} as const;

/** Data type of an ONNX file's weights, as transformers.js names them. */
export type OnnxDtype = keyof typeof SUFFIXES;

/** All data types, the most exact first. */
export const ONNX_DTYPES: readonly OnnxDtype[] = ["fp32", "fp16", "q8", "int8", "uint8", "q4", "q4f16", "bnb4"];

/** Names of graphs without their endings: today's, and those of older exports with and without a past. */
const GRAPHS = ["model", "decoder_model_merged"] as const;

/** Families whose exports were compared with their checkpoints. Others may change weights when they are exported. */
export const ONNX_MODEL_TYPES: readonly string[] =
  "llama mistral qwen2 qwen3 olmo2 olmo3 ministral3 granite smollm3".split(" ");

/** Returns the names that the file of a data type may have, such as `model_q4.onnx`. @param graph - one graph alone */
export function onnxFileNames(dtype: OnnxDtype, graph?: string): readonly string[] {
  return (graph === undefined ? GRAPHS : [graph]).map((name) => `${name}${SUFFIXES[dtype]}.onnx`);
}

/** Folders of a model in which ONNX files may be. */
const FOLDERS = ["onnx/", ""] as const;

/**
 * Chooses among the ONNX files of a folder or repository: the most exact data type. `undefined` when there is none with
 * a usual name and not just one with another name.
 *
 * @param names - with slashes, relative to the model's folder
 */
export function chooseOnnxFile(names: Iterable<string>): string | undefined {
  const all = new Set(names);
  for (const folder of FOLDERS) {
    for (const dtype of ONNX_DTYPES) {
      const found = onnxFileNames(dtype).find((name) => all.has(folder + name));
      if (found !== undefined) return folder + found;
    }
  }
  const [only, ...others] = onnxFilesAmong(all);
  return others.length === 0 ? only : undefined;
}

/** Lists the ONNX files in a folder and in its `onnx` folder. */
export function onnxFilesAmong(names: Iterable<string>): readonly string[] {
  return Array.from(names).filter((name) => /^(onnx\/)?[^/]+\.onnx$/i.test(name));
}

/** Lists the files beside an ONNX file that usually hold its weights: `model.onnx_data`, `model.onnx.data`. */
export function dataFilesOf(file: string, names: Iterable<string>): readonly string[] {
  return Array.from(names).filter(
    (name) => name.startsWith(file) && /^(_data|\.data)(_\d+)?$/.test(name.slice(file.length)),
  );
}
