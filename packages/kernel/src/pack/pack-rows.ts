// Packs rows of a model file by the kernel's own code, in the addon or in WebAssembly.

import { kernelThreads } from "../kernel-threads.ts";
import { loadAddon, packNatively, type Addon } from "../native-kernel.ts";
import { openModule } from "../wasm-calls.ts";
import type { RowsToPack } from "./packed-tensor.ts";

/** Packs rows into whole panels. @throws {RangeError} when they are no whole blocks */
export type Packer = (rows: RowsToPack) => Uint8Array;

/** Words of `RowsToPack` in `native/pack_rows.h`. */
const REQUEST_WORDS = 8;
const ALIGNMENT = 64;

let packer: Packer | undefined;

/** Packs rows on all threads. @throws {RangeError} when they are no whole blocks */
export function packRows(rows: RowsToPack): Uint8Array {
  packer ??= newPacker();
  return packer(rows);
}

function newPacker(): Packer {
  try {
    return nativePacker(loadAddon(), kernelThreads(undefined));
  } catch {
    return wasmPacker();
  }
}

export function nativePacker(addon: Addon, threads: number): Packer {
  return (rows) => {
    const packed = new Uint8Array(rows.byteLength);
    packNatively(addon, rows, threads, { target: packed, place: 0 });
    return packed;
  };
}

export function wasmPacker(): Packer {
  const { calls } = openModule("wasm-simd");
  const { memory } = calls;
  return ({ format, source, numIn, rows, inputs, scales, byteLength }) => {
    let end = 0;
    const places = [4 * REQUEST_WORDS, rows.byteLength, inputs.byteLength, scales.byteLength, byteLength].map(
      (bytes) => {
        const place = end;
        end += Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
        return place;
      },
    );
    const start = calls.allocate(end);
    const [request = 0, rowsAt = 0, inputsAt = 0, scalesAt = 0, packedAt = 0] = places.map((place) => start + place);
    new Uint8Array(memory.buffer, rowsAt).set(rows);
    new Float32Array(memory.buffer, inputsAt, inputs.length).set(inputs);
    const pointers = [rowsAt, inputs.length > 0 ? inputsAt : 0, packedAt, scalesAt];
    new Int32Array(memory.buffer, request, REQUEST_WORDS).set([format, source, numIn, 0, ...pointers]);
    const packedBytes = calls.exports.pack_rows(request, rows.byteLength);
    scales.set(new Float32Array(memory.buffer, scalesAt, scales.length));
    const packed = new Uint8Array(memory.buffer, packedAt, byteLength).slice();
    calls.exports.release(start);
    if (packedBytes !== byteLength) throw new RangeError("Expected whole rows of blocks");
    return packed;
  };
}
