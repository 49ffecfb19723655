/**
 * A value of a GGUF file's metadata. Integers are numbers where they are safe ones, bigints otherwise;
 * arrays of numbers are typed arrays (or numbers for 64-bit integers), other arrays plain ones.
 */
export type GgufValue =
  | number
  | bigint
  | boolean
  | string
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | Float64Array
  | readonly GgufValue[];

/** A GGUF file's metadata by key, such as `llama.block_count` or `tokenizer.ggml.tokens`. */
export type GgufMetadata = ReadonlyMap<string, GgufValue>;
