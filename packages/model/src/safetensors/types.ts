import type { StoredType, TensorInfo } from "../tensor-store.ts";

/** The element types of safetensors files that this project reads and writes. */
export type SafetensorsType = Exclude<StoredType, `Q${string}`>;

/** Bytes per element. */
export const SAFETENSORS_TYPE_BYTES: ReadonlyMap<string, number> = new Map<SafetensorsType, number>([
  ["F64", 8],
  ["F32", 4],
  ["F16", 2],
  ["BF16", 2],
  ["I64", 8],
  ["I32", 4],
  ["I16", 2],
  ["I8", 1],
  ["U8", 1],
  ["BOOL", 1],
]);

/** Types of the format that this project has no use for. */
export const UNREAD_SAFETENSORS_TYPES: ReadonlySet<string> = new Set(
  "U64 U32 U16 C64 F8_E4M3 F8_E5M2 F8_E4M3FNUZ F8_E5M2FNUZ F8_E8M0 F6_E2M3 F6_E3M2 F4".split(" "),
);

export function isSafetensorsType(name: string): name is SafetensorsType {
  return SAFETENSORS_TYPE_BYTES.has(name);
}

export interface SafetensorsEntry extends TensorInfo {
  readonly type: SafetensorsType;
  /** From the start of the file, in bytes. */
  readonly offset: number;
}

/** The file's own notes, such as `{ format: "pt" }`. */
export type SafetensorsMetadata = ReadonlyMap<string, string>;

/** The header is a JSON object; its tensors are its members, but for this one. */
export const METADATA_KEY = "__metadata__";

/** The format's own limit on the JSON text. */
export const MAX_HEADER_BYTES = 100_000_000;
