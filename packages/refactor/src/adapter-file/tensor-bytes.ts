import { decodeBf16, decodeF16, encodeBf16, encodeF16, type SafetensorsInput } from "@readme-moe/model";

export type StoredFloat = "F32" | "F16" | "BF16";

/** Types that differences are made of; tensors of other types are stored as they are. */
export function isStoredFloat(type: string): type is StoredFloat {
  return type === "F32" || type === "F16" || type === "BF16";
}

/** @throws {TypeError} for a type that is none of `StoredFloat` */
export async function floatsOf({ name, type, bytes }: SafetensorsInput): Promise<Float32Array> {
  if (!isStoredFloat(type)) throw new TypeError(`Expected ${name} to be of floats, got ${type}`);
  return decoded(await bytes(), type);
}

function decoded(stored: Uint8Array, type: StoredFloat): Float32Array {
  if (type === "F16") return decodeF16(stored);
  if (type === "BF16") return decodeBf16(stored);
  const whole = stored.byteOffset % 4 === 0 ? stored : Uint8Array.from(stored);
  return new Float32Array(whole.buffer, whole.byteOffset, whole.byteLength / 4);
}

export function bytesOf(values: Float32Array, type: StoredFloat): Uint8Array {
  if (type === "F16") return encodeF16(values);
  if (type === "BF16") return encodeBf16(values);
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

/** `values` as a tensor of this type would hold them. */
export function rounded(values: Float32Array, type: string): Float32Array {
  return isStoredFloat(type) && type !== "F32" ? decoded(bytesOf(values, type), type) : values;
}
