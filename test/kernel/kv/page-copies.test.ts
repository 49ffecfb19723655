// Copies of pages: the same bytes in all builds, and refusals of what is no page.

import {
  availableInstructions,
  KV_PAGE_TOKENS,
  KV_PRECISIONS,
  type Kernel,
  type KvPrecision,
} from "@readme-moe/kernel";
import { describe, expect, test } from "vitest";
import { NUM_SMALL_PAGES, openSmall, resultsOf, SMALL_REQUEST, SMALL_SHAPE } from "../../support/kernel/small-model.ts";

const BUILDS = (["native", "wasm"] as const).flatMap((kernel) =>
  availableInstructions(kernel).map((instructions) => ({ kernel, instructions })),
);
const pageBytes = (precision: KvPrecision): number => {
  const { headSize, numKvHeads, numLayers } = SMALL_SHAPE;
  const padded = Math.ceil(headSize / 16) * 16;
  const headBytes = { fp32: 4 * padded, fp16: 2 * padded, int8: padded + 4 }[precision];
  return 2 * numLayers * numKvHeads * headBytes * KV_PAGE_TOKENS;
};

/** Runs a step in new memory, whose pages hold zeros first, and copies all pages. */
async function pagesAfterStep(kernel: Kernel, precision: KvPrecision): Promise<readonly Uint8Array[]> {
  const pages = kernel.openPages(NUM_SMALL_PAGES, precision);
  const zeros = new Uint8Array(pageBytes(precision));
  for (let page = 0; page < NUM_SMALL_PAGES; page++) pages.write(page, zeros);
  kernel.step(pages, SMALL_REQUEST, resultsOf(1));
  const copies = Array.from({ length: NUM_SMALL_PAGES }, (_, page) => {
    const bytes = new Uint8Array(pageBytes(precision));
    pages.read(page, bytes);
    return bytes;
  });
  pages.close();
  return copies;
}

describe.each(KV_PRECISIONS)("%s", (precision) => {
  test("a step writes the same bytes in all builds", async () => {
    let expected: readonly Uint8Array[] | undefined;
    for (const build of BUILDS) {
      const kernel = await openSmall(build);
      const copies = await pagesAfterStep(kernel, precision);
      await kernel.close();
      expected ??= copies;
      expect(copies.some((bytes) => bytes.some((byte) => byte !== 0))).toBe(true);
      expect(copies).toEqual(expected);
    }
  });

  test.each(["native", "wasm"] as const)("%s pages give back what was written, page by page", async (kind) => {
    const kernel = await openSmall({ kernel: kind });
    const pages = kernel.openPages(NUM_SMALL_PAGES, precision);
    const written = Array.from({ length: NUM_SMALL_PAGES }, (_, page) =>
      Uint8Array.from({ length: pageBytes(precision) }, (_value, at) => (at * 31 + page * 7) % 251),
    );
    for (const [page, bytes] of written.entries()) pages.write(page, bytes);
    const room = new Uint8Array(pageBytes(precision));
    for (const [page, bytes] of written.entries()) {
      pages.read(page, room);
      expect(room).toEqual(bytes);
    }
    for (const page of [-1, NUM_SMALL_PAGES, 2 ** 31 - 1]) {
      expect(() => pages.read(page, room)).toThrow("a page");
      expect(() => pages.write(page, room)).toThrow("a page");
    }
    for (const length of [0, room.length - 1, room.length + 1]) {
      expect(() => pages.read(0, new Uint8Array(length))).toThrow("room for a page of all layers");
      expect(() => pages.write(0, new Uint8Array(length))).toThrow("room for a page of all layers");
    }
    pages.close();
    expect(() => pages.read(0, room)).toThrow(TypeError);
    await kernel.close();
  });
});
