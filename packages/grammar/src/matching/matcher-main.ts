// Where a thread begins that compiles one grammar and tells which tokens may come next.

import { parentPort, workerData } from "node:worker_threads";
import type { CompiledGrammar, GrammarCompiler, GrammarMatcher } from "@mlc-ai/web-xgrammar";
import type { EngineVocabulary } from "@readme-moe/core";
import type { GrammarSource } from "../grammar-source.ts";
import { explain, loadLibrary } from "./library.ts";
import { MatcherBook } from "./matcher-book.ts";
import type { HomeAnswer, HomeData, MaskQuestion } from "./protocol.ts";

// A completion that was forgotten costs as much as reading its tokens again.
const MAX_MATCHERS = 64;

const NOT_ALLOWED: HomeAnswer = {
  type: "failed",
  message: "a token is not in the grammar",
  isFatal: false,
  isOutOfMemory: false,
};

const { vocabulary, source, maxBytes } = workerData as HomeData;
const book = open();
// Questions are answered one after the other; until the grammar is compiled there is none.
let answered: Promise<void> = book.then(
  () => answer({ type: "compiled" }),
  (error: unknown) => answer({ type: "failed", ...explain(error) }),
);
parentPort?.on("message", (question: MaskQuestion) => {
  answered = answered.then(() => tellMask(question));
});

async function open(): Promise<MatcherBook<GrammarMatcher>> {
  const library = await loadLibrary(maxBytes);
  const stops = [...vocabulary.eosTokenIds];
  // Bytes are taken as they are, though the types speak of text.
  const tokens = bytesOf(vocabulary) as unknown as string[];
  const info = await library.TokenizerInfo.createTokenizerInfo(tokens, "raw", false, vocabulary.vocabSize, stops);
  const compiled = await compile(await library.GrammarCompiler.createGrammarCompiler(info, false), source);
  return new MatcherBook(() => library.GrammarMatcher.createGrammarMatcher(compiled, stops), MAX_MATCHERS);
}

function compile(compiler: GrammarCompiler, from: GrammarSource): Promise<CompiledGrammar> {
  switch (from.kind) {
    case "ebnf":
      return compiler.compileGrammar(from.text, from.root);
    case "tags":
      return compiler.compileStructuralTag(from.format);
    default:
      throw new TypeError(`Unknown kind of grammar: ${String(from satisfies never)}`);
  }
}

async function tellMask(question: MaskQuestion): Promise<void> {
  try {
    const matcher = await (await book).at(question);
    if (!matcher) return answer(NOT_ALLOWED);
    answer({ type: "mask", mask: matcher.isTerminated() ? onlyEnds() : owned(await matcher.getNextTokenBitmask()) });
  } catch (error) {
    answer({ type: "failed", ...explain(error) });
  }
}

/** After an end token nothing but another one can come. */
function onlyEnds(): Int32Array<ArrayBuffer> {
  const mask = new Int32Array(Math.ceil(vocabulary.vocabSize / 32));
  for (const id of vocabulary.eosTokenIds) mask[id >> 5] = (mask[id >> 5] as number) | (1 << (id & 31));
  return mask;
}

function owned(mask: Int32Array): Int32Array<ArrayBuffer> {
  return mask.buffer instanceof ArrayBuffer ? (mask as Int32Array<ArrayBuffer>) : new Int32Array(mask);
}

function bytesOf({ vocabSize, bytes, offsets }: EngineVocabulary): Uint8Array[] {
  return Array.from({ length: vocabSize }, (_, id) => bytes.subarray(offsets[id], offsets[id + 1]));
}

function answer(message: HomeAnswer): void {
  parentPort?.postMessage(message, message.type === "mask" ? [message.mask.buffer] : []);
}
