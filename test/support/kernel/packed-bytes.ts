// What a kernel is opened from: bytes of a packed file, and angles.

import { packedFile, type DecoderDescription, type Kernel, type PackedTensor } from "@readme-moe/kernel";
import { packRows, type Packer } from "../../../packages/kernel/src/pack/packed-file.ts";
import type { PlainModel } from "../../oracles/plain-kernel.ts";

/** The packed file's bytes. */
export async function packedBytes(description: DecoderDescription): Promise<Uint8Array> {
  const pieces: Uint8Array[] = [];
  for await (const piece of packedFile(description)) pieces.push(piece);
  return new Uint8Array(Buffer.concat(pieces));
}

/** The packed bytes of one tensor, with scales and bias as floats. @param packer - of rows. @default that of this platform */
export async function packedParts(tensor: PackedTensor, packer: Packer = packRows) {
  const parts = tensor.parts();
  const pieces: Uint8Array[] = [];
  for await (const piece of parts.weights()) pieces.push(piece instanceof Uint8Array ? piece : packer(piece));
  return { weights: Buffer.concat(pieces), scales: floatsOf(await parts.scales()), bias: floatsOf(await parts.bias()) };
}

function floatsOf(bytes: Uint8Array): Float32Array {
  return new Float32Array(bytes.slice().buffer);
}

/** Gives a kernel the angles of a model. */
export function setAllAngles(kernel: Kernel, { angles }: PlainModel): void {
  for (const [angleSet, positions] of angles.entries()) {
    // Two pieces, as a growing sequence sets them.
    const split = Math.floor(positions.length / 3);
    kernel.setAngles(angleSet, 0, joined(positions.slice(0, split)));
    kernel.setAngles(angleSet, split, joined(positions.slice(split)));
  }
}

function joined(positions: readonly Float32Array[]): Float32Array {
  return Float32Array.from(positions.flatMap((position) => Array.from(position)));
}
