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
export const ONNX_MODEL_TYPES: readonly string[] = "llama mistral qwen2 qwen3 olmo2 granite smollm3".split(" ");

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
