// Packs rows of a model file's blocks by the kernel's own code, in the addon or in WebAssembly.

import { kernelThreads } from "../kernel-threads.ts";
import { loadAddon, type Addon } from "../native-kernel.ts";
import { wasmPacker } from "../wasm-kernel.ts";
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
