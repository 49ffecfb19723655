import { open, stat } from "node:fs/promises";

const [PIECE_BYTES, MAX_BYTES] = [4 << 20, 64 << 20];

/**
 * How fast a file is read, as units of experts are: in pieces, one after the other. What the system has in its cache comes
 * from there, as it will for the engine.
 *
 * @returns MB/s; `undefined` where the file is too small to tell
 */
export async function readSpeed(path: string, now: () => number): Promise<number | undefined> {
  const { size } = await stat(path);
  const pieces = Math.floor(Math.min(size, MAX_BYTES) / PIECE_BYTES);
  if (pieces === 0) return undefined;
  const piece = new Uint8Array(PIECE_BYTES);
  const file = await open(path);
  try {
    const startMs = now();
    for (let index = 0; index < pieces; index++) await file.read(piece, 0, PIECE_BYTES, index * PIECE_BYTES);
    return (pieces * PIECE_BYTES) / 1e3 / Math.max(1e-3, now() - startMs);
  } finally {
    await file.close();
  }
}
