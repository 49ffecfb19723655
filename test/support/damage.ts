import { copyFile, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { ReadMeError } from "@readme-moe/core";
import { expect } from "vitest";
import { randomInteger } from "./random.ts";
import type { TensorStore } from "../../packages/model/src/tensor-store.ts";

/** Memory that a reader may hold beside the file: its window on a header, tables, and Node's own buffers. */
const CONSTANT_BYTES = 4 * 2 ** 20;

/** Reads a whole file, and returns its errors; `tensor` is the tensor of an error, if it is about one. */
type ReadAll = (path: string) => Promise<readonly { readonly error: unknown; readonly tensor?: string }[]>;

/**
 * Opens a store and reads each of its tensors, as bytes and as floats.
 * @param nameInMessages - name of a tensor in messages, if it is not the store's
 */
export function readAllWith(
  open: (path: string) => Promise<TensorStore>,
  nameInMessages = (name: string): string => name,
): ReadAll {
  return async (path) => {
    const problems: { error: unknown; tensor?: string }[] = [];
    const note = (tensor: string) => (error: unknown) => void problems.push({ error, tensor: nameInMessages(tensor) });
    let store: TensorStore;
    try {
      store = await open(path);
    } catch (error) {
      return [{ error }];
    }
    for (const name of store.names) {
      await store.readBytes(name).catch(note(name));
      await store.readFloats(name).catch(note(name));
    }
    await store.close();
    return problems;
  };
}

/**
 * Writes `bytes` to `path` and reads them.
 *
 * Expects that every error is a `ReadMeError` that names the file and the tensor, and that the buffers stay within
 * those of a valid file of this size: its bytes, the floats that they decode to (eight times as much for blocks of 4
 * bits), and a constant.
 *
 * @returns the messages, none when the file was read whole
 */
export async function readDamaged(path: string, bytes: Uint8Array, readAll: ReadAll): Promise<readonly string[]> {
  await writeFile(path, bytes);
  return checkReading(path, bytes.byteLength, readAll);
}

/** Does the same for an existing file. */
export async function checkReading(path: string, fileBytes: number, readAll: ReadAll): Promise<readonly string[]> {
  const before = process.memoryUsage().arrayBuffers;
  const problems = await readAll(path);
  expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(9 * fileBytes + CONSTANT_BYTES);
  return problems.map(({ error, tensor }) => {
    if (!(error instanceof ReadMeError)) throw new Error("Expected a ReadMeError", { cause: error });
    expect(error.message).toContain(path);
    if (tensor !== undefined) expect(error.message).toContain(JSON.stringify(tensor));
    return error.message;
  });
}

/** Lists the wrong values that replace the byte `value`, one by one. */
export function wrongValues(value: number): readonly number[] {
  const flipped = Array.from({ length: 8 }, (_, bit) => value ^ (1 << bit));
  const candidates = [0x00, 0xff, 0x7f, 0x80, (value + 1) & 0xff, (value - 1) & 0xff, ...flipped];
  return [...new Set(candidates)].filter((wrong) => wrong !== value);
}

/** Copies `bytes` with `wrong` at `at`. */
export function withByte(bytes: Uint8Array, at: number, wrong: number): Uint8Array {
  const damaged = Uint8Array.from(bytes);
  damaged[at] = wrong;
  return damaged;
}

/** Damages one of some files: cuts it, changes a byte, removes it, or overwrites it with another one. */
export async function damageOneOf(paths: readonly string[], random: () => number): Promise<void> {
  const [path, other] = [paths[randomInteger(random, paths.length)]!, paths[randomInteger(random, paths.length)]!];
  const content = await readFile(path);
  const way = randomInteger(random, 4);
  if (way === 0) await truncate(path, randomInteger(random, content.length));
  else if (way === 1) await writeFile(path, withByte(content, randomInteger(random, content.length), 255));
  else if (way === 2) await rm(path);
  else if (path !== other) await copyFile(other, path);
}
