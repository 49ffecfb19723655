// Brings the library up in a thread of its own.

import { createRequire } from "node:module";
import type * as Library from "@mlc-ai/web-xgrammar";
import type { HomeFailure } from "./protocol.ts";

const NAME = "@mlc-ai/web-xgrammar";
const PAGE_BYTES = 65_536;
/** Characters; it may repeat much of the grammar. */
const MAX_COMPLAINT = 1_000;

interface Memory {
  readonly buffer: ArrayBuffer;
  grow(pages: number): number;
}

// Node's types do not speak of it.
const { WebAssembly } = globalThis as unknown as {
  readonly WebAssembly: {
    readonly Memory: { readonly prototype: Memory };
    readonly RuntimeError: ErrorConstructor;
  };
};

/** The last thing that the library complained of: it ends itself instead of throwing with a message. */
let complaint = "";

/**
 * Its only file is a script for CommonJS in a package that says it is a module, so that an import of it finds nothing.
 * In a thread where nobody else lives the names that it looks for can be global. It also writes to the console.
 *
 * @param maxBytes - of WebAssembly memory; asking for more ends the library
 */
export async function loadLibrary(maxBytes: number): Promise<typeof Library> {
  limitMemory(maxBytes);
  console.error = (...parts: unknown[]) => {
    const text = parts.map(String).join(" ");
    if (!text.startsWith("Aborted(")) complaint = text;
  };
  const require = createRequire(import.meta.url);
  const exports = {};
  Object.assign(globalThis, { require, exports, module: { exports }, __filename: require.resolve(NAME) });
  await import("@mlc-ai/web-xgrammar");
  return exports as typeof Library;
}

/** What the library says is wrong, without the paths of where it was built. */
export function explain(error: unknown): HomeFailure {
  const isFatal = error instanceof WebAssembly.RuntimeError || error instanceof RangeError;
  const said = complaint
    .slice(0, MAX_COMPLAINT)
    .replace(/^\[[A-Z]+\]\s+\S+:\d+:\s*/, "")
    .trim();
  complaint = "";
  const isOutOfMemory = isFatal && said === "";
  const message = said === "" ? String(error) : said;
  return { message: isOutOfMemory ? "it needs too much memory" : message, isFatal, isOutOfMemory };
}

function limitMemory(maxBytes: number): void {
  const { prototype } = WebAssembly.Memory;
  const grow: unknown = Reflect.get(prototype, "grow");
  if (typeof grow !== "function") return;
  prototype.grow = function limited(this: Memory, pages: number): number {
    if (this.buffer.byteLength + pages * PAGE_BYTES > maxBytes) throw new RangeError("Over the limit of memory");
    return Reflect.apply(grow, this, [pages]) as number;
  };
}
