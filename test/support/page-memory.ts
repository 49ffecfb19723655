/** Allocates zeroed memory that begins on a page of the system, as resizable buffers do. */
export function pageMemory(bytes: number): Uint8Array {
  return new Uint8Array(new ArrayBuffer(bytes, { maxByteLength: bytes }));
}
