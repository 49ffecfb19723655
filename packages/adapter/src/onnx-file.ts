// Chooses the ONNX file that the host would load.

import { chooseOnnxFile, ONNX_DTYPES, type OnnxDtype, onnxFileNames } from "@readme-moe/model";
import type { Generation, HostLoadOptions } from "./host.ts";

/** An ONNX file of a model. */
export interface OnnxChoice {
  /** Name relative to the model's folder, with slashes. */
  readonly file: string;
  /** Data type that the options or the model's config ask for; `undefined` when neither names one that there is. */
  readonly dtype: OnnxDtype | undefined;
}

/**
 * Chooses as the host does: by `dtype` or `quantized`, then by the section `transformers.js_config` of config.json,
 * then float32. Without any of these, the most exact file.
 *
 * @param names - files of the folder or repository, with slashes
 * @param config - config.json, if it can be read
 * @returns `undefined` when the host would find no file either
 */
export function onnxChoice(
  generation: Generation,
  options: HostLoadOptions,
  names: ReadonlySet<string>,
  config: unknown,
): OnnxChoice | undefined {
  const { subfolder, model_file_name: graph } = options;
  const folder = subfolder ?? "onnx";
  const asked = generation === "xenova" ? askedByOlder(options) : askedByNewer(options.dtype);
  const dtype = asked ?? namedDtype(dtypeOfConfig(config));
  if (asked !== undefined && !isDtype(asked)) return undefined;
  const found = onnxFileNames(isDtype(dtype) ? dtype : "fp32", graph ?? undefined)
    .map((name) => (folder === "" ? name : `${folder}/${name}`))
    .find((name) => names.has(name));
  if (found !== undefined) return { file: found, dtype: isDtype(dtype) ? dtype : undefined };
  const best = asked === undefined && !graph && !subfolder ? chooseOnnxFile(names) : undefined;
  return best === undefined ? undefined : { file: best, dtype: undefined };
}

function isDtype(name: string | undefined): name is OnnxDtype {
  return ONNX_DTYPES.some((dtype) => dtype === name);
}

function askedByOlder({ quantized = true }: HostLoadOptions): OnnxDtype {
  return quantized ? "q8" : "fp32";
}

function askedByNewer(dtype: HostLoadOptions["dtype"]): string | undefined {
  const name = namedDtype(dtype);
  return name === "auto" ? undefined : name;
}

/** Finds the data type of a decoder among those of several graphs. */
function namedDtype(dtype: unknown): string | undefined {
  if (typeof dtype === "string") return dtype;
  if (typeof dtype !== "object" || dtype === null) return undefined;
  const name: unknown = "model" in dtype ? dtype.model : Object.values(dtype)[0];
  return typeof name === "string" ? name : undefined;
}

function dtypeOfConfig(config: unknown): unknown {
  if (typeof config !== "object" || config === null || !("transformers.js_config" in config)) return undefined;
  const own = config["transformers.js_config"];
  return typeof own === "object" && own !== null && "dtype" in own ? own.dtype : undefined;
}
