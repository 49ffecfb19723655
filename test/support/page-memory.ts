/** A resizable buffer, which begins on a page of the system; the type library lacks it. */
type PageBufferConstructor = new (byteLength: number, options: { readonly maxByteLength: number }) => ArrayBuffer;

/** Allocates zeroed memory that begins on a page. */
export function pageMemory(bytes: number): Uint8Array {
  return new Uint8Array(new (ArrayBuffer as PageBufferConstructor)(bytes, { maxByteLength: bytes }));
}
