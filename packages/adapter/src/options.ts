import { describeValue, rejectUnknownKeys } from "@readme-moe/core";
import type { EngineOptions } from "@readme-moe/engine";
import type { Generation, HostLoadOptions } from "./host.ts";

/** Options of `register`, and of this package's `pipeline` besides the host's own. */
export interface AdapterOptions {
  /**
   * `"readme-moe"` never leaves a model to the host: what the engine cannot load is an error. Safetensors and GGUF
   * beside ONNX files are preferred. @default ONNX files that the engine cannot read are run by the host
   */
  readonly engine?: "readme-moe" | undefined;
  /**
   * Options of the engine; pipelines with the same model and the same options share one. Unless given, `precision` and
   * `threads` follow from the host's `dtype` (or `quantized`) and `session_options.intraOpNumThreads`.
   */
  readonly engineOptions?: EngineOptions | undefined;
}

/** @throws {TypeError} naming the option, the expectation and the value */
export function checkAdapterOptions(options: AdapterOptions): AdapterOptions {
  if (typeof options !== "object" || options === null) {
    throw new TypeError(`Expected options to be an object, got ${describeValue(options)}`);
  }
  rejectUnknownKeys("the adapter", options, ["engine", "engineOptions"]);
  const { engine } = options;
  if (engine === undefined || engine === "readme-moe") return options;
  throw new TypeError(`Expected \`engine\` to be "readme-moe", got ${describeValue(engine)}`);
}

const PRECISIONS: Readonly<Record<string, EngineOptions["precision"]>> = {
  fp32: "fp32",
  fp16: "fp32",
  q8: "int8",
  int8: "int8",
  uint8: "int8",
  q4: "int4",
  q4f16: "int4",
  bnb4: "int4",
};

/**
 * Translates the host's options into the engine's. Without a `dtype` the engine's own default counts.
 * @throws {TypeError} on a `dtype` without a matching precision
 */
export function engineOptionsOf(
  generation: Generation,
  { dtype, quantized = true, session_options: session }: HostLoadOptions,
  { engineOptions }: AdapterOptions,
): EngineOptions {
  const threads = session?.intraOpNumThreads;
  const precision = generation === "xenova" ? (quantized ? "int8" : "fp32") : precisionOf(dtype);
  return { ...(precision && { precision }), ...(threads ? { threads } : {}), ...engineOptions };
}

function precisionOf(dtype: HostLoadOptions["dtype"]): EngineOptions["precision"] {
  const name = typeof dtype === "object" && dtype !== null ? (dtype["model"] ?? Object.values(dtype)[0]) : dtype;
  if (name === undefined || name === null || name === "auto") return undefined;
  const precision = PRECISIONS[name];
  if (precision !== undefined) return precision;
  throw new TypeError(
    `Expected \`dtype\` to be one of auto, ${Object.keys(PRECISIONS).join(", ")}, got ${describeValue(name)}`,
  );
}
