// Stores of sums in the kernel's inner loops, found in assembly as the compiler writes it.

import { expect, test } from "vitest";
import { checkStores, storesOf } from "../../tools/kernel/stores.ts";

const times = (count: number, line: string): readonly string[] => Array.from({ length: count }, () => `\t${line}`);

const X64 = [
  "product:                                # @product",
  "# %bb.0:",
  ...times(2, "vmovups\t%zmm0, (%rdi)"),
  ".LBB7_1:                                # =>This Loop Header: Depth=1",
  "                                        #     Child Loop BB7_3 Depth 2",
  "\tvmovaps\t%zmm1, 832(%rsp)                # 64-byte Spill",
  "\tvmovaps\t%zmm2, %zmm1",
  "# %bb.2:                                #   in Loop: Header=BB7_1 Depth=1",
  ...times(8, "vpdpbusd\t%zmm4, %zmm3, %zmm9"),
  "\tvmovdqu64\t(%r13,%rax), %zmm0",
  ".LBB7_3:                                #   Parent Loop BB7_1 Depth=1",
  "                                        # =>  This Inner Loop Header: Depth=2",
  "\tprefetcht1\t(%r10)",
  ".LBB7_4:                                #   in Loop: Header=BB7_1 Depth=1",
  "\tvmovaps\t%zmm5, 448(%rsp)                # 64-byte Spill",
  ".LBB7_5:",
  "\tvmovups\t%zmm9, (%rdi)",
  "\tretq",
];

const ARM64 = [
  "product:                                // @product",
  "// %bb.0:",
  ".LBB7_1:                                // =>This Inner Loop Header: Depth=1",
  ...times(4, "sdot\tv16.4s, v0.16b, v25.4b[1]"),
  "\tstp\tq0, q29, [sp, #96]              // 32-byte Folded Spill",
  "\tstr\tq28, [sp, #128]                 // 16-byte Folded Spill",
  "\tstp\tx19, x20, [sp, #16]",
  "\tldp\tq0, q29, [sp, #96]",
  "other:                                  // @other",
  ".LBB8_1:                                // =>This Inner Loop Header: Depth=1",
  ...times(4, "sdot\tv16.4s, v0.16b, v25.4b[1]"),
];

const avx512 = { name: "loops-avx512", flags: [] };

test("stores of vector registers are counted in a loop, without what surrounds it and other loops in it", () => {
  expect(storesOf(X64.join("\n"))).toStrictEqual([{ loop: "product BB7_1", numProducts: 8, numStores: 2 }]);
  expect(storesOf(ARM64.join("\n"))).toStrictEqual([
    { loop: "product BB7_1", numProducts: 4, numStores: 3 },
    { loop: "other BB8_1", numProducts: 4, numStores: 0 },
  ]);
});

test("a build with more stores than it may have is refused with its loops", () => {
  const assembly = X64.join("\n");
  checkStores({ ...avx512, mostStores: 1 / 4 }, assembly);
  checkStores(avx512, assembly);
  expect(() => checkStores({ ...avx512, mostStores: 1 / 8 }, assembly)).toThrow(
    new Error("Inner loops of loops-avx512 store vector registers\nproduct BB7_1: 2 for 8 dot products"),
  );
});

test("assembly without the loops is refused", () => {
  expect(() => checkStores({ ...avx512, mostStores: 0 }, "\tretq\n")).toThrow(
    new Error("Expected loops with dot products in loops-avx512, found none"),
  );
});
