// Packed files that are not sound: opening them fails with the reason, or they hold another model that is.

import * as fc from "../support/fast-check.ts";
import { ReadMeError } from "@readme-moe/core";
import { openKernel, type Kernel, type KernelKind } from "@readme-moe/kernel";
import { describe, expect, test } from "vitest";
import {
  NUM_SMALL_PAGES,
  resultsOf,
  smallBytes,
  SMALL_MODEL,
  SMALL_REQUEST,
  SMALL_SIZES,
} from "../support/kernel/small-model.ts";
import { headerBytes, tensorsOf } from "../../packages/kernel/src/description.ts";

const SEED = 20_261_127;
const NUM_RUNS = { native: 400, wasm: 150 } as const;

const { description } = SMALL_MODEL;
const NUM_WORDS = headerBytes(description, tensorsOf(description).length) / 4;

/** Opens bytes and runs a step. @returns whether that went well; the only other way is a ReadMeError of opening */
async function opens(bytes: Uint8Array, kind: KernelKind): Promise<boolean> {
  let kernel: Kernel;
  try {
    kernel = openKernel(bytes, { ...SMALL_SIZES, threads: 1 }, { kernel: kind });
  } catch (error) {
    expect(error).toBeInstanceOf(ReadMeError);
    expect((error as ReadMeError).code).toBe("ERR_RUNTIME");
    return false;
  }
  try {
    const pages = kernel.openPages(NUM_SMALL_PAGES, "fp16");
    kernel.step(pages, SMALL_REQUEST, resultsOf(1));
    pages.close();
  } catch (error) {
    // Another model may have another vocabulary.
    expect(error).toBeInstanceOf(RangeError);
  }
  await kernel.close();
  return true;
}

describe.each<KernelKind>(["native", "wasm"])("%s kernels", (kind) => {
  test("open no file that was cut anywhere", async () => {
    const bytes = await smallBytes();
    expect(await opens(bytes, kind)).toBe(true);
    const lengths = [0, 1, 3, 4, 63, 64, NUM_WORDS * 4 - 1, NUM_WORDS * 4, bytes.length >> 1, bytes.length - 64];
    for (const length of lengths) expect(await opens(bytes.slice(0, length), kind), `${length}`).toBe(false);
  });

  test("open no file of another kind", async () => {
    expect(await opens(Buffer.from("GGUF".repeat(1000)), kind)).toBe(false);
    expect(await opens(new Uint8Array(100_000), kind)).toBe(false);
    expect(await opens(new Uint8Array(100_000).fill(255), kind)).toBe(false);
  });

  test("refuse or run files of whose description any words are others", async () => {
    const bytes = await smallBytes();
    const word = fc.oneof(
      fc.integer({ min: -2, max: 200 }),
      fc.constantFrom(2 ** 31 - 1, -(2 ** 31), 2 ** 24, 2 ** 24 + 1, 2 ** 20, 2 ** 16),
      fc.integer(),
    );
    const changes = fc.array(fc.tuple(fc.nat(NUM_WORDS - 1), word), { minLength: 1, maxLength: 3 });
    let [numOpened, numRefused] = [0, 0];
    await fc.assert(
      fc.asyncProperty(changes, async (words) => {
        const damaged = bytes.slice();
        const view = new DataView(damaged.buffer, damaged.byteOffset);
        for (const [index, value] of words) view.setInt32(4 * index, value, true);
        if (await opens(damaged, kind)) numOpened++;
        else numRefused++;
      }),
      { seed: SEED, numRuns: NUM_RUNS[kind] },
    );
    expect(numOpened).toBeGreaterThan(NUM_RUNS[kind] / 20);
    expect(numRefused).toBeGreaterThan(NUM_RUNS[kind] / 3);
  });

  test("name a path that cannot be opened", () => {
    for (const path of ["/nothing/is/here", import.meta.dirname, ""]) {
      expect(() => openKernel(path, SMALL_SIZES, { kernel: kind }), path).toThrow(ReadMeError);
    }
    expect(() => openKernel(`${import.meta.filename}\0`, SMALL_SIZES, { kernel: kind })).toThrow(/path|mapped/);
  });

  test("refuse instructions and sizes that they do not have", async () => {
    const bytes = await smallBytes();
    expect(() => openKernel(bytes, SMALL_SIZES, { kernel: kind, instructions: "mmx" })).toThrow(TypeError);
    for (const change of [{ threads: 0 }, { threads: 1000 }, { maxRows: 0 }, { maxPositions: -1 }, { maxRows: NaN }]) {
      expect(() => openKernel(bytes, { ...SMALL_SIZES, ...change }, { kernel: kind })).toThrow(ReadMeError);
    }
  });
});
