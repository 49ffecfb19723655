// Packs rows of a model file's blocks by the kernel's own code, in the addon or in WebAssembly.

import { kernelThreads } from "../kernel-threads.ts";
import { loadAddon, type Addon } from "../native-kernel.ts";
import { openModule } from "../wasm-calls.ts";
import type { RowsToPack } from "./packed-tensor.ts";

type Packer = (rows: RowsToPack) => Uint8Array;

let packer: Packer | undefined;

/** Packs rows on all threads. @throws {RangeError} when they are no whole blocks */
export function packRows(rows: RowsToPack): Uint8Array {
  packer ??= newPacker();
  return packer(rows);
}

function newPacker(): Packer {
  try {
    return nativePacker(loadAddon());
  } catch {
    return wasmPacker();
  }
}

function nativePacker(addon: Addon): Packer {
  const threads = kernelThreads(undefined);
  return ({ format, numIn, rows, byteLength }) => {
    const packed = new Uint8Array(byteLength);
    addon.packRows(packed, 0, format, numIn, rows, threads);
    return packed;
  };
}

function wasmPacker(): Packer {
  const { calls } = openModule("wasm-simd");
  const { memory } = calls;
  return ({ format, numIn, rows, byteLength }) => {
    const [from, to] = [calls.allocate(rows.byteLength), calls.allocate(byteLength)];
    new Uint8Array(memory.buffer, from, rows.byteLength).set(rows);
    const packedBytes = calls.exports.pack_rows(format, numIn, from, rows.byteLength, to);
    const packed = new Uint8Array(memory.buffer, to, byteLength).slice();
    calls.exports.release(from);
    calls.exports.release(to);
    if (packedBytes !== byteLength) throw new RangeError("Expected whole rows of blocks");
    return packed;
  };
}
