// Checks that inner loops keep their sums in registers, by the assembly of the pinned compiler, whose comments name the
// innermost loop of each block.

import type { LoopsBuild } from "./recipe.ts";

/** A loop, by its function and the label of its first block. */
export interface LoopStores {
  readonly loop: string;
  readonly numProducts: number;
  /** Number of vector registers that the loop writes to memory. */
  readonly numStores: number;
}

const LABEL = /^(?<name>[A-Za-z_][\w.$]*):/;
const BLOCK = /^(?:\.?L(?<block>BB\d+_\d+):|(?:#|\/\/) %bb)/;
const OWN_LOOP = /Inner Loop Header: Depth|=>.*Loop Header: Depth/;
const OUTER_LOOP = /in Loop: Header=(?<block>BB\d+_\d+) /;
const INSTRUCTION = /^\t[a-z{]/;
const PRODUCT = /\b(?:vpdpbusd|vpmaddubsw|sdot|smull2)\b/;
const STORE = /^\t(?:v?mov\w+\s+%[xyz]mm\d+, .*\(|(?:str|stur|stp|st1)\s+\{?\s*[qv]\d)/;
const PAIR = /^\tstp/;
/** Other loops have products of a few leftovers. */
const LEAST_PRODUCTS = 4;
/** A function for a few rows, which waits for memory: the order of its reads counts more than its stores. */
const FEW_ROWS = "panel_product ";

/** Lists the innermost loops with dot products. */
export function storesOf(assembly: string): readonly LoopStores[] {
  const loops = new Map<string, { numProducts: number; numStores: number }>();
  let [name, block, loop]: [string, string, string | undefined] = ["", "", undefined];
  for (const line of assembly.split("\n")) {
    const label = LABEL.exec(line)?.groups?.["name"];
    if (label !== undefined && !BLOCK.test(line)) [name, loop] = [label, undefined];
    const start = BLOCK.exec(line);
    if (start) [block, loop] = [start.groups?.["block"] ?? block, undefined];
    if (OWN_LOOP.test(line)) loop = block;
    loop = OUTER_LOOP.exec(line)?.groups?.["block"] ?? loop;
    if (loop === undefined || !INSTRUCTION.test(line)) continue;
    const key = `${name} ${loop}`;
    const counts = loops.get(key) ?? { numProducts: 0, numStores: 0 };
    loops.set(key, counts);
    if (PRODUCT.test(line)) counts.numProducts++;
    if (STORE.test(line)) counts.numStores += PAIR.test(line) ? 2 : 1;
  }
  return [...loops]
    .filter(([, { numProducts }]) => numProducts >= LEAST_PRODUCTS)
    .map(([key, counts]) => ({ loop: key, ...counts }));
}

/** @throws {Error} when an inner loop stores more than its build may, or none is found */
export function checkStores({ name, mostStores }: LoopsBuild, assembly: string): void {
  if (mostStores === undefined) return;
  const loops = storesOf(assembly);
  if (loops.length === 0) throw new Error(`Expected loops with dot products in ${name}, found none`);
  const wrong = loops.filter(
    ({ loop, numProducts, numStores }) => !loop.startsWith(FEW_ROWS) && numStores > numProducts * mostStores,
  );
  if (wrong.length === 0) return;
  const lines = wrong.map(
    ({ loop, numProducts, numStores }) => `${loop}: ${numStores} for ${numProducts} dot products`,
  );
  throw new Error(`Inner loops of ${name} store vector registers\n${lines.join("\n")}`);
}
