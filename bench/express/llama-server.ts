// Typical Express handler around node-llama-cpp: a context with as many sequences as concurrent answers; a request
// waits for a free one.

import { pathToFileURL } from "node:url";
import express from "express";
import { serveBench } from "./answer-calls.ts";
import { type CompletionRequest, completionStream } from "./completion-stream.ts";
import type { ServerSetup } from "./server-process.ts";

/** Used part of the library, which is not a dependency of this repository. */
interface Library {
  readonly getLlama: (options: object) => Promise<{ loadModel(options: object): Promise<Model> }>;
}

interface Model {
  tokenize(text: string): readonly number[];
  detokenize(tokens: readonly number[]): string;
  createContext(options: object): Promise<{ getSequence(): Sequence }>;
}

interface Sequence {
  evaluate(tokens: readonly number[], options: object): AsyncIterable<number>;
  clearHistory(): Promise<void>;
}

const { peer } = JSON.parse(process.argv[2] ?? "{}") as ServerSetup;
if (!peer) throw new Error("Expected `peer` to name the model, got nothing");
const { getLlama } = (await import(pathToFileURL(peer.library).href)) as Library;
const llama = await getLlama({ build: "never", gpu: false, maxThreads: peer.threads, logLevel: "error" });
const model = await llama.loadModel({ modelPath: peer.model });
const { places, threads, contextTokens } = peer;
const context = await model.createContext({ sequences: places, contextSize: contextTokens, threads });
const free = Array.from({ length: places }, () => context.getSequence());
const waiting: ((sequence: Sequence) => void)[] = [];

function leave(sequence: Sequence): void {
  const next = waiting.shift();
  if (next) next(sequence);
  else free.push(sequence);
}

const app = express().use(express.json());
app.get("/health", (_, response) => void response.json({ status: "ok" }));
app.post("/v1/completions", async (request, response) => {
  const { prompt, max_tokens: tokens, stream = false } = request.body as CompletionRequest;
  const answer = completionStream(response, stream);
  const sequence = free.pop() ?? (await new Promise<Sequence>((resolve) => waiting.push(resolve)));
  let isGone = false;
  response.on("close", () => (isGone = !response.writableFinished));
  try {
    let numTokens = 0;
    for await (const id of sequence.evaluate(model.tokenize(prompt), { temperature: 0, yieldEogToken: true })) {
      answer.token(model.detokenize([id]));
      if (++numTokens === tokens || isGone) break;
    }
    answer.end(numTokens);
  } finally {
    await sequence.clearHistory();
    leave(sequence);
  }
});
serveBench(app);
