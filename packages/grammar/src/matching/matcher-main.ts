// Entry of a thread that compiles one grammar and finds the tokens that may come next.

import { createRequire } from "node:module";
import { parentPort, workerData } from "node:worker_threads";
import type * as Library from "@mlc-ai/web-xgrammar";
import type { EngineVocabulary } from "@readme-moe/core";
import {
  acceptText,
  draftAllowed,
  type DraftMatcher,
  Matchers,
  TokenLengths,
  TokenTable,
  WideMatcher,
} from "./matchers.ts";
import type { MaskQuestion, ThreadAnswer, ThreadData, ThreadFailure } from "./protocol.ts";

// An evicted completion costs as much as reading its tokens again.
const MAX_MATCHERS = 64;
const MAX_DRAFT_TOKENS = 16;
const MAX_WIDE_COMPILE_MS = 500;
const NOTHING = new Int32Array();
const NAME = "@mlc-ai/web-xgrammar";
const PAGE_BYTES = 65_536;
// A complaint may repeat much of the grammar.
const MAX_COMPLAINT_CHARACTERS = 1_000;

const NOT_ALLOWED: ThreadAnswer = {
  type: "failed",
  message: "a token is not in the grammar",
  isFatal: false,
  isOutOfMemory: false,
};

interface Memory {
  readonly buffer: ArrayBuffer;
  grow(pages: number): number;
}

// Node's types do not contain WebAssembly.
const { WebAssembly } = globalThis as unknown as {
  readonly WebAssembly: {
    readonly Memory: { readonly prototype: Memory };
    readonly RuntimeError: ErrorConstructor;
  };
};

/** The library's last error output: it aborts instead of throwing an error with a message. */
let complaint = "";
/** The library's memory after it grew last. */
let usedBytes = 0;

const { vocabulary, source, maxBytes } = workerData as ThreadData;
const tools = {
  table: new TokenTable(vocabulary),
  eosTokenIds: vocabulary.eosTokenIds,
  vocabSize: vocabulary.vocabSize,
  now: () => performance.now(),
};
const matchers = open();
// Questions are answered one after the other, the first once the grammar is compiled.
let answered: Promise<void> = matchers.then(
  () => answer({ type: "compiled" }),
  (error: unknown) => answer({ type: "failed", ...explain(error) }),
);
parentPort?.on("message", (question: MaskQuestion) => {
  answered = answered.then(() => answerMask(question));
});

async function open(): Promise<Matchers<DraftMatcher>> {
  const library = await loadLibrary();
  const stops = [...vocabulary.eosTokenIds];
  // The library takes bytes as they are, although its types ask for texts.
  const tokens = bytesOf(vocabulary) as unknown as string[];
  const info = await library.TokenizerInfo.createTokenizerInfo(tokens, "raw", false, vocabulary.vocabSize, stops);
  const compiler = await library.GrammarCompiler.createGrammarCompiler(info, false);
  const startMs = performance.now();
  const compiled = await compiler.compileGrammar(source.text, source.root);
  const openMatcher = async (of: Library.CompiledGrammar): Promise<Library.GrammarMatcher> => {
    const matcher = await library.GrammarMatcher.createGrammarMatcher(of, stops);
    if (source.before !== undefined) acceptText(matcher, source.before);
    return matcher;
  };
  // Compiling once more may not fail what compiled well.
  const isLarge = performance.now() - startMs > MAX_WIDE_COMPILE_MS || usedBytes > maxBytes / 2;
  if (!source.wide || isLarge) return new Matchers(() => openMatcher(compiled), MAX_MATCHERS);
  const { grammar, hasPatterns } = source.wide;
  const wideCompiled = await compiler.compileGrammar(grammar.text, grammar.root);
  const lengths = new TokenLengths(vocabulary);
  const openBoth = async (): Promise<WideMatcher> => {
    const both = { exact: await openMatcher(compiled), wide: await openMatcher(wideCompiled) };
    return new WideMatcher(both, lengths, hasPatterns);
  };
  return new Matchers(openBoth, MAX_MATCHERS);
}

/**
 * Loads the library. Its only file is a CommonJS script in a package that claims to be a module, so that an import
 * of it yields nothing in Node and Deno. The thread runs nothing else, so the names that the script looks for can be
 * global. Bun sees what the file is, and gives the script names of its own.
 */
async function loadLibrary(): Promise<typeof Library> {
  limitMemory();
  console.error = (...parts: unknown[]) => {
    const text = parts.map(String).join(" ");
    if (!text.startsWith("Aborted(")) complaint = text;
  };
  const require = createRequire(import.meta.url);
  const exports = {};
  Object.assign(globalThis, { require, exports, module: { exports }, __filename: require.resolve(NAME) });
  const imported: { readonly default?: unknown } = await import("@mlc-ai/web-xgrammar");
  const found = [exports, imported.default, imported].find((names) => "TokenizerInfo" in Object(names));
  return found as typeof Library;
}

/** Makes growth of WebAssembly memory beyond `maxBytes` fail, which aborts the library. */
function limitMemory(): void {
  const { prototype } = WebAssembly.Memory;
  const grow: unknown = Reflect.get(prototype, "grow");
  if (typeof grow !== "function") return;
  prototype.grow = function limited(this: Memory, pages: number): number {
    if (this.buffer.byteLength + pages * PAGE_BYTES > maxBytes) throw new RangeError("Over the limit of memory");
    const before = Reflect.apply(grow, this, [pages]) as number;
    usedBytes = this.buffer.byteLength;
    return before;
  };
}

async function answerMask(question: MaskQuestion): Promise<void> {
  try {
    const matcher = await (await matchers).at(question);
    if (!matcher) return answer(NOT_ALLOWED);
    const asked = question.draft ?? NOTHING;
    const most = question.draft ? MAX_DRAFT_TOKENS : 0;
    const { draft, numForced, masks } = await draftAllowed(matcher, question.tokenIds, { asked, most }, tools);
    answer({ type: "mask", draft: new Int32Array(draft), numForced, masks: joined(masks) });
  } catch (error) {
    answer({ type: "failed", ...explain(error) });
  }
}

/** Copies masks into one buffer. */
function joined(masks: readonly Int32Array[]): Int32Array<ArrayBuffer> {
  const words = Math.ceil(vocabulary.vocabSize / 32);
  const whole = new Int32Array(masks.length * words);
  for (const [index, mask] of masks.entries()) whole.set(mask, index * words);
  return whole;
}

function bytesOf({ vocabSize, bytes, offsets }: EngineVocabulary): Uint8Array[] {
  return Array.from({ length: vocabSize }, (_, id) => bytes.subarray(offsets[id], offsets[id + 1]));
}

/** Describes an error by the library's complaint, without the paths of the machine where the library was built. */
function explain(error: unknown): ThreadFailure {
  const isFatal = error instanceof WebAssembly.RuntimeError || error instanceof RangeError;
  const text = complaint
    .slice(0, MAX_COMPLAINT_CHARACTERS)
    .replace(/^\[[A-Z]+\]\s+\S+:\d+:\s*/, "")
    .trim();
  complaint = "";
  const isOutOfMemory = isFatal && text === "";
  const message = text === "" ? String(error) : text;
  return { message: isOutOfMemory ? "it needs too much memory" : message, isFatal, isOutOfMemory };
}

function answer(message: ThreadAnswer): void {
  parentPort?.postMessage(message, message.type === "mask" ? [message.masks.buffer] : []);
}
