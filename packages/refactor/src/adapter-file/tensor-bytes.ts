import { decodeFloats, encodeFloats, isStoredFloat, type SafetensorsInput } from "@readme-moe/model";

/** @throws {TypeError} for a type that is none of `StoredFloat` */
export async function floatsOf({ name, type, bytes }: SafetensorsInput): Promise<Float32Array> {
  if (!isStoredFloat(type)) throw new TypeError(`Expected ${name} to be of floats, got ${type}`);
  return decodeFloats(await bytes(), type);
}

/** `values` as a tensor of this type would hold them. */
export function rounded(values: Float32Array, type: string): Float32Array {
  return isStoredFloat(type) && type !== "F32" ? decodeFloats(encodeFloats(values, type), type) : values;
}
